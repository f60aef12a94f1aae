//! A transaction whose end was sent and not answered may have been committed: the client is told so (08007), and told
//! 08006 only where it was certainly lost.
