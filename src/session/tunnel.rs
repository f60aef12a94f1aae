//! A replication connection after login: bytes both ways, unread and within bounded buffers, until either side ends
//! it or the proxy goes away.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::clients::Membership;
use crate::net::Channel;
use crate::session::{End, shutdown};
use crate::upstream::ReplicationServer;

/// Runs to the end.
pub async fn run(client: &mut Channel, membership: &Membership, server: &mut ReplicationServer) -> End {
    poll_fn(|cx| poll(client, membership, server, cx)).await
}

fn poll(
    client: &mut Channel,
    membership: &Membership,
    server: &mut ReplicationServer,
    cx: &mut Context<'_>,
) -> Poll<End> {
    let who = membership.client();
    who.listen(cx);
    if who.order().is_some() {
        // The stream may be in the middle of a message, so that nothing can be told.
        tracing::info!(reason = shutdown().message, "a replication connection ends");
        return Poll::Ready(End::Torn);
    }
    if who.is_cancelled() {
        who.clear_cancel();
        tokio::spawn(server.cancel());
    }
    loop {
        let towards_server = pass(client, &mut server.channel, cx);
        let towards_client = pass(&mut server.channel, client, cx);
        match (towards_server, towards_client) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                return Poll::Ready(End::Lost(error));
            }
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            _ => {}
        }
    }
}

/// Moves what can be moved; ready if anything was.
fn pass(from: &mut Channel, to: &mut Channel, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut moved = false;
    if !to.output.is_full() {
        match from.input.poll_fill(&mut from.stream, cx, 1) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => moved = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        }
    }
    let count = from.input.len();
    if count > 0 && !to.output.is_full() {
        to.output.space().extend_from_slice(from.input.bytes());
        from.input.consume(count);
        moved = true;
    }
    if let Poll::Ready(Err(error)) = to.output.poll_flush(&mut to.stream, cx) {
        return Poll::Ready(Err(error));
    }
    if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
}
