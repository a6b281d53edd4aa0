//! Where segment objects come from and go back to.
