//! The Engine trait, the workers that drive it, preparation of pictures, and the echo engine.
