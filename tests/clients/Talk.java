import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.concurrent.CompletionStage;

/** A conversation through the WebSocket client of Java itself. Its input and output are those of talk.py. */
public class Talk implements WebSocket.Listener {
    private final StringBuilder text = new StringBuilder();
    private final ByteArrayOutputStream binary = new ByteArrayOutputStream();

    public static void main(String[] arguments) throws Exception {
        WebSocket socket =
                HttpClient.newHttpClient().newWebSocketBuilder().buildAsync(URI.create(arguments[0]), new Talk()).join();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ", 2);
            if (words[0].equals("close")) {
                String[] closing = words[1].split(" ", 2);
                socket.sendClose(Integer.parseInt(closing[0]), closing[1]).join();
                continue;
            }
            byte[] payload = HexFormat.of().parseHex(words[1]);
            if (words[0].equals("text")) {
                socket.sendText(new String(payload, StandardCharsets.UTF_8), true).join();
            } else {
                socket.sendBinary(ByteBuffer.wrap(payload), true).join();
            }
        }
    }

    private static void tell(String words) {
        System.out.println(words);
        System.out.flush();
    }

    @Override
    public void onOpen(WebSocket socket) {
        tell("open plain");
        socket.request(1);
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        text.append(part);
        if (last) {
            tell("text " + HexFormat.of().formatHex(text.toString().getBytes(StandardCharsets.UTF_8)));
            text.setLength(0);
        }
        socket.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean last) {
        byte[] bytes = new byte[part.remaining()];
        part.get(bytes);
        binary.writeBytes(bytes);
        if (last) {
            tell("binary " + HexFormat.of().formatHex(binary.toByteArray()));
            binary.reset();
        }
        socket.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        tell("closed " + code);
        System.exit(0);
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        error.printStackTrace();
        System.exit(1);
    }
}
