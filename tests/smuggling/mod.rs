mod framing;
mod injection;
mod rows;
