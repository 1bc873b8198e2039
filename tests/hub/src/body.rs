//! A file's bytes on their way out, faults included.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::{FaultKind, RepoFile, State};

/// Bytes sent at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// An answer's body: given as a whole, or made while it is sent.
pub(crate) enum Answer {
    Whole(Option<Bytes>),
    Made {
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        left: u64,
    },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Made { chunks, left } => chunks.poll_recv(context).map(|chunk| {
                let chunk = chunk?;
                if let Ok(bytes) = &chunk {
                    *left -= bytes.len() as u64;
                }
                Some(chunk.map(Frame::data))
            }),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Made { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

/// The bytes `from..to` of `file`, with what goes wrong. `place` is where they are logged.
pub(crate) fn bytes_of(
    state: Arc<State>,
    place: usize,
    file: RepoFile,
    from: u64,
    to: u64,
    fault: Option<FaultKind>,
) -> Answer {
    let to = match fault {
        Some(FaultKind::Truncate { after }) => to.min(from + after),
        _ => to,
    };
    // One chunk under way: what is logged as sent is not much more than what was sent.
    let (sender, chunks) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut at = from;
        while at < to {
            let mut most = CHUNK_BYTES.min((to - at) as usize);
            let sent = at - from;
            match fault {
                Some(FaultKind::Drop { after }) => {
                    if sent >= after {
                        let _ = sender
                            .send(Err(io::ErrorKind::ConnectionReset.into()))
                            .await;
                        return;
                    }
                    most = most.min((after - sent) as usize);
                }
                Some(FaultKind::Stall { after, ms }) => {
                    if sent == after {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                    } else if sent < after {
                        most = most.min((after - sent) as usize);
                    }
                }
                Some(FaultKind::Slow { bytes_per_sec }) => {
                    most = most.min((bytes_per_sec / 20).max(1) as usize);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => {}
            }
            let read = match file.is_on_disk() {
                false => file.read(at, most),
                true => {
                    let file = file.clone();
                    let read = tokio::task::spawn_blocking(move || file.read(at, most)).await;
                    read.unwrap_or_else(|error| Err(io::Error::other(error)))
                }
            };
            let read = match (read, &fault) {
                (Ok(bytes), Some(FaultKind::Corrupt { at: bad }))
                    if (at..at + bytes.len() as u64).contains(bad) =>
                {
                    let mut damaged = bytes.to_vec();
                    damaged[(bad - at) as usize] ^= 1;
                    Ok(damaged.into())
                }
                (read, _) => read,
            };
            let len = read.as_ref().map_or(0, |bytes: &Bytes| bytes.len() as u64);
            if sender.send(read).await.is_err() || len == 0 {
                // Whoever asked is gone, or the file is.
                return;
            }
            at += len;
            state.sent(place, len);
        }
        // A stall at the very end holds back the end.
        if let Some(FaultKind::Stall { after, ms }) = fault
            && to - from <= after
        {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    });
    Answer::Made {
        chunks,
        left: to - from,
    }
}
