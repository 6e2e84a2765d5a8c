//! A conversation with servers that do everything wrong.

use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};
use tokio::io::{DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::*;

/// Longer than any honest answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn last_words() -> LastWords {
    Box::new(|has_spoken| {
        Box::pin(async move { Ended::passing(format!("gone, after speaking: {has_spoken}")) })
    })
}

async fn open(near: DuplexStream) -> Result<Arc<Connection>, Ended> {
    let (reader, writer) = tokio::io::split(near);
    Connection::open(reader, writer, last_words()).await
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&u32::try_from(packet.len()).unwrap().to_be_bytes(), packet].concat()
}

/// Says hello, then these bytes, and hears everything.
async fn server(mut far: DuplexStream, bytes: Vec<u8>) {
    let _ = far.write_all(&framed(&[2, 0, 0, 0, 3])).await;
    let _ = far.write_all(&bytes).await;
    let _ = far.shutdown().await;
    let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
}

#[test]
fn a_packet_that_claims_gigabytes_ends_the_conversation_at_once() {
    runtime().block_on(async {
        let (near, far) = duplex(1 << 16);
        let mut bytes = vec![0xff; 4];
        bytes.extend([0; 100]);
        tokio::spawn(server(far, bytes));
        let connection = open(near).await.unwrap();
        let error = timeout(PATIENCE, connection.send(Request::Stat { path: "x" }).attributes());
        let error = error.await.unwrap().unwrap_err();
        assert!(error.message().contains("a packet is too long"), "{error}");
        assert!(!error.is_temporary());
        assert!(connection.has_ended());
        let second = connection.send(Request::Stat { path: "x" }).attributes().await;
        assert!(second.is_err());
    });
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_conversation() {
    runtime().block_on(async {
        let (near, far) = duplex(1 << 16);
        tokio::spawn(server(far, framed(&[101, 0, 0, 0, 99, 0, 0, 0, 0])));
        let connection = open(near).await.unwrap();
        let answer = connection.send(Request::Stat { path: "x" });
        let error = timeout(PATIENCE, answer.attributes()).await.unwrap().unwrap_err();
        assert!(error.message().contains("belongs to no request"), "{error}");
    });
}

#[test]
fn the_end_is_told_to_everybody_who_waits() {
    runtime().block_on(async {
        let (near, mut far) = duplex(1 << 16);
        let greeting = tokio::spawn(open(near));
        far.write_all(&framed(&[2, 0, 0, 0, 3])).await.unwrap();
        let connection = greeting.await.unwrap().unwrap();
        let waiting: Vec<_> =
            (0..5).map(|_| connection.send(Request::Stat { path: "x" })).collect();
        drop(far);
        for answer in waiting {
            let error = timeout(PATIENCE, answer.attributes()).await.unwrap().unwrap_err();
            assert_eq!(error.message(), "gone, after speaking: true");
            assert!(error.is_temporary());
        }
    });
}

#[test]
fn a_server_that_is_too_old_or_no_server_at_all_is_refused() {
    for (said, message) in [
        (framed(&[2, 0, 0, 0, 2]), "the server speaks version 2 of SFTP only"),
        (
            b"Welcome to this machine!\n".to_vec(),
            "the server does not speak the protocol: a packet is too long",
        ),
        (
            framed(&[101, 0, 0, 0, 0]),
            "the server does not speak the protocol: its first packet is not its version",
        ),
        (Vec::new(), "gone, after speaking: false"),
    ] {
        runtime().block_on(async {
            let (near, mut far) = duplex(1 << 16);
            far.write_all(&said).await.unwrap();
            far.shutdown().await.unwrap();
            let opened = timeout(PATIENCE, open(near)).await.unwrap();
            assert_eq!(opened.err().map(|ended| ended.message).as_deref(), Some(message));
        });
    }
}

/// Answers each packet that it hears with a packet that names its number, of any kind and content.
async fn mumbling_server(mut far: DuplexStream, answers: Vec<(u8, Vec<u8>)>) {
    let _ = read_packet(&mut far).await;
    let hello =
        [&[2, 0, 0, 0, 3, 0, 0, 0, 19][..], LIMITS.as_bytes(), &[0, 0, 0, 1, b'1']].concat();
    let _ = far.write_all(&framed(&hello)).await;
    for (kind, content) in answers {
        let Ok(asked) = read_packet(&mut far).await else { return };
        let answer = [&[kind], asked.get(1..5).unwrap_or(&[0; 4]), &content].concat();
        if far.write_all(&framed(&answer)).await.is_err() {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Noise after the greeting: every call ends, none panics.
    #[test]
    fn noise_ends_every_call(bytes: Vec<u8>, calls in 1usize..5) {
        runtime().block_on(async {
            let (near, far) = duplex(1 << 16);
            tokio::spawn(server(far, bytes));
            let connection = open(near).await.expect("the greeting is right");
            for _ in 0..calls {
                let answer = connection.send(Request::OpenFolder { path: "x" });
                let answer = timeout(PATIENCE, answer.handle()).await;
                prop_assert!(answer.is_ok(), "a call hangs");
            }
            Ok(())
        })?;
    }

    /// Answers of every kind to questions of every kind.
    #[test]
    fn answers_of_the_wrong_kind_end_every_call(
        answers in proptest::collection::vec((100u8..106, any::<Vec<u8>>()), 0..8),
    ) {
        runtime().block_on(async {
            let (near, far) = duplex(1 << 16);
            tokio::spawn(mumbling_server(far, answers));
            let Ok(connection) = timeout(PATIENCE, open(near)).await.expect("the greeting ends") else {
                return Ok(());
            };
            let ask = || connection.send(Request::Stat { path: "x" });
            let ended = timeout(PATIENCE, async {
                let _ = ask().handle().await;
                let _ = ask().data().await;
                let _ = ask().names().await;
                let _ = ask().attributes().await;
                let _ = ask().extended().await;
                let _ = ask().done().await;
            });
            prop_assert!(ended.await.is_ok(), "a call hangs");
            Ok(())
        })?;
    }
}
