
mod lake;
