//! The distribution client, registries as sources and destinations, and layouts.

mod access;
mod blobs;
mod copies;
mod faults;
mod shared;
mod uploads;
