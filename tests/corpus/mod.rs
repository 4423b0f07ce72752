mod captured;
mod malformed;
mod rfcs;
