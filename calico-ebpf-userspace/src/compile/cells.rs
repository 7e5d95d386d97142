//! Part of the compiler.
