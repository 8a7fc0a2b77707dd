//! What an application links: connect, open a session, infer.
