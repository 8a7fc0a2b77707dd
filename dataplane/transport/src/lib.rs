//! The Link trait, the drivers of a link, and the links local, shm, tcp and zmq.
