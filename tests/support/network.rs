//! The network between a node and Redis, as bad as a test wants it: a TCP proxy that delays, stands
//! still, loses the path of connections without closing them, and cuts connections in the middle of
//! what they carry.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The least time after which TCP sends a lost segment again: on a stream, a lost packet is
/// everything behind it held up.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// A way to Redis, on a port of its own. Dropping it closes everything.
pub struct Network {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    _connections: JoinSet<Infallible>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// How long every chunk is on its way.
    delay: Duration,
    /// The share of chunks whose first copy is lost.
    loss: f64,
    /// Nothing passes; it will when this is over.
    still: bool,
    /// How many connections there have been.
    opened: u64,
    /// Nothing ever passes again on connections with smaller numbers, and nobody is told.
    dead_below: u64,
    /// Connections with smaller numbers are reset in the middle of their next chunk.
    cut_below: u64,
    /// Connections with smaller numbers are reset at once.
    reset_below: u64,
}

impl Network {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, _) = watch::channel(Weather::default());
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, target, weather.clone()));
        Self {
            address,
            weather,
            _connections: connections,
        }
    }

    /// Fair weather. What a lost path has swallowed stays lost.
    pub fn calm(&self) {
        self.weather.send_modify(|weather| {
            (weather.delay, weather.loss, weather.still) = (Duration::ZERO, 0.0, false);
        });
    }

    /// Every chunk takes this long, and this share of them is lost and sent again.
    pub fn lossy(&self, delay: Duration, loss: f64) {
        self.weather
            .send_modify(|weather| (weather.delay, weather.loss) = (delay, loss));
    }

    /// Nothing passes until it is calm again.
    pub fn still(&self) {
        self.weather.send_modify(|weather| weather.still = true);
    }

    /// The connections that are open stay so at both ends, but what is said on them never arrives.
    /// New ones work.
    pub fn lose_path(&self) {
        self.weather
            .send_modify(|weather| weather.dead_below = weather.opened);
    }

    /// Resets the connections that are open, at once: what was on its way is lost.
    pub fn reset(&self) {
        self.weather
            .send_modify(|weather| weather.reset_below = weather.opened);
    }

    /// Resets the connections that are open, each in the middle of what passes next.
    pub fn cut(&self) {
        self.weather
            .send_modify(|weather| weather.cut_below = weather.opened);
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    weather: watch::Sender<Weather>,
) -> Infallible {
    let mut carried = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        let mut number = 0;
        weather.send_modify(|weather| {
            number = weather.opened;
            weather.opened += 1;
        });
        // However a connection ends, its client finds out by itself: that is what is tested.
        carried.spawn(carry(near, target, number, weather.subscribe()));
        while carried.try_join_next().is_some() {}
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    number: u64,
    weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let far = TcpStream::connect(target).await?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let mut reset = weather.clone();
    let pumps = async {
        tokio::try_join!(
            pump(near_read, far_write, number, weather.clone()),
            pump(far_read, near_write, number, weather.clone()),
        )
    };
    tokio::select! {
        ended = pumps => ended.map(|_| ()),
        // A socket that is dropped with something unread resets its connection, and else ends it:
        // gone it is in any case.
        _ = reset.wait_for(|weather| number < weather.reset_below) => Ok(()),
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let mut weather_there = weather.clone();
    let reading = async move {
        let mut arrives = Instant::now();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let len = from.read(&mut buffer).await?;
            if len == 0 {
                return Ok(());
            }
            let Weather { delay, loss, .. } = *weather.borrow();
            let again = if rand::random_bool(loss) {
                RETRANSMISSION
            } else {
                Duration::ZERO
            };
            // In order: what comes behind a lost chunk waits for it.
            arrives = arrives.max(Instant::now() + delay + again);
            if sender
                .send((arrives, buffer[..len].to_vec()))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((arrives, chunk)) = chunks.recv().await {
            sleep_until(arrives).await;
            let passes = |weather: &Weather| !weather.still && number >= weather.dead_below;
            // Ends only with the network if the path is lost: neither end hears of the other's
            // goodbye.
            let weather = *weather_there
                .wait_for(passes)
                .await
                .map_err(io::Error::other)?;
            if number < weather.cut_below {
                to.write_all(&chunk[..chunk.len() / 2]).await?;
                SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO))?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            to.write_all(&chunk).await?;
        }
        // An ending does not pass where nothing passes.
        let passes = |weather: &Weather| !weather.still && number >= weather.dead_below;
        weather_there
            .wait_for(passes)
            .await
            .map_err(io::Error::other)?;
        to.shutdown().await
    };
    tokio::try_join!(reading, writing)?;
    Ok(())
}
