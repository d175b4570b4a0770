//! The distribution client, registries as sources and destinations, and layouts.

mod access;
mod blobs;
mod copied_referrers;
mod copies;
mod faults;
mod referrers;
mod shared_layers;
mod uploads;
