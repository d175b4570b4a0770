//! The distribution client, registries as sources and destinations, and layouts.

mod access;
mod along;
mod blobs;
mod copies;
mod faults;
mod referrers;
mod shared;
mod uploads;
