//! The protocol of a capture, as a typed sequence of states.
