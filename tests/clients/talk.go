// A conversation through a WebSocket client of Go: coder/websocket, which Debian packages by its former name. Its input
// and output are those of talk.py.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"nhooyr.io/websocket"
)

func main() {
	background := context.Background()
	options := &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover}
	socket, response, err := websocket.Dial(background, os.Args[1], options)
	if err != nil {
		log.Fatal(err)
	}
	socket.SetReadLimit(1 << 20)
	if strings.Contains(response.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		fmt.Println("open deflate")
	} else {
		fmt.Println("open plain")
	}
	go speak(background, socket)
	names := map[websocket.MessageType]string{websocket.MessageText: "text", websocket.MessageBinary: "binary"}
	for {
		kind, payload, err := socket.Read(background)
		var closing websocket.CloseError
		if errors.As(err, &closing) {
			fmt.Println("closed", int(closing.Code))
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(names[kind], hex.EncodeToString(payload))
	}
}

func speak(background context.Context, socket *websocket.Conn) {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), " ")
		if name == "close" {
			code, reason, _ := strings.Cut(rest, " ")
			number, err := strconv.Atoi(code)
			if err != nil {
				log.Fatal(err)
			}
			socket.Close(websocket.StatusCode(number), reason)
			continue
		}
		payload, err := hex.DecodeString(rest)
		if err != nil {
			log.Fatal(err)
		}
		kind := websocket.MessageText
		if name == "binary" {
			kind = websocket.MessageBinary
		}
		if err := socket.Write(background, kind, payload); err != nil {
			log.Fatal(err)
		}
	}
}
