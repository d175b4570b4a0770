//! The messages of containerd's API that reading images needs. They are written by hand: generating them needs `protoc`,
//! which is not a build dependency. Fields that are not used are left out; decoding skips them.
//!
//! Paths of definitions are relative to `api/` of github.com/containerd/containerd. Field numbers are the same in 1.6 and 2.x.

use std::collections::HashMap;

use bytes::Bytes;

/// `google.protobuf.Empty`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct Empty {}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct Any {
    /// The type of `value`, such as `containerd.events.ImageCreate`.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `types/descriptor.proto`, `containerd.types.Descriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct Descriptor {
    #[prost(string, tag = "1")]
    pub media_type: String,
    #[prost(string, tag = "2")]
    pub digest: String,
    /// In bytes.
    #[prost(int64, tag = "3")]
    pub size: i64,
}

/// `services/images/v1/images.proto`, `Image`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct Image {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "3")]
    pub target: Option<Descriptor>,
}

/// `services/images/v1/images.proto`, `GetImageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct GetImageRequest {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `services/images/v1/images.proto`, `GetImageResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct GetImageResponse {
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

/// `services/images/v1/images.proto`, `ListImagesRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct ListImagesRequest {
    /// An image matches if any of them does.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// `services/images/v1/images.proto`, `ListImagesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

/// `services/content/v1/content.proto`, `Info`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct ContentInfo {
    /// In bytes.
    #[prost(int64, tag = "2")]
    pub size: i64,
}

/// `services/content/v1/content.proto`, `InfoRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct InfoRequest {
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// `services/content/v1/content.proto`, `InfoResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub info: Option<ContentInfo>,
}

/// `services/content/v1/content.proto`, `ReadContentRequest`; without a size, content is read to its end.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct ReadContentRequest {
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// `services/content/v1/content.proto`, `ReadContentResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct ReadContentResponse {
    /// The offset of `data` in the content, in bytes.
    #[prost(int64, tag = "1")]
    pub offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// `services/events/v1/events.proto`, `SubscribeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct SubscribeRequest {
    /// An event matches if any of them does.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// `types/event.proto`, `Envelope` (1.6: `services/events/v1/events.proto`).
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct Envelope {
    #[prost(string, tag = "3")]
    pub topic: String,
    #[prost(message, optional, tag = "4")]
    pub event: Option<Any>,
}

/// `events/image.proto`: `ImageCreate`, `ImageUpdate` and `ImageDelete` have this field in common.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct ImageEvent {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `services/introspection/v1/introspection.proto`, `PluginsRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct PluginsRequest {
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// `services/introspection/v1/introspection.proto`, `Plugin`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct Plugin {
    /// Its description; the content plugin has `root`.
    #[prost(map = "string, string", tag = "5")]
    pub exports: HashMap<String, String>,
}

/// `services/introspection/v1/introspection.proto`, `PluginsResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct PluginsResponse {
    #[prost(message, repeated, tag = "1")]
    pub plugins: Vec<Plugin>,
}

/// `services/version/v1/version.proto`, `VersionResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct VersionResponse {
    #[prost(string, tag = "1")]
    pub version: String,
}
