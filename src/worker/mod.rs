//! Moves images that stand as `JackalImage` objects: the same worker in the controller, for images from
//! registries, and in the agent, for those of its node. What differs between the two is a [`Role`](crate::runtime::Role).

mod concurrency;
mod image;
mod task;

pub use image::run;
