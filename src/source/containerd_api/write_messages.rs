//! The messages of containerd's API that storing images needs, as those in `messages`.

use std::collections::HashMap;

use bytes::Bytes;

use super::messages::Descriptor;

/// `services/content/v1/content.proto`, `WriteAction`: asks for the state of an upload.
pub(in crate::source) const STAT: i32 = 0;
/// `WriteAction`: adds content to an upload.
pub(in crate::source) const WRITE: i32 = 1;
/// `WriteAction`: ends an upload.
pub(in crate::source) const COMMIT: i32 = 2;

/// `services/content/v1/content.proto`, `WriteContentRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct WriteContentRequest {
    #[prost(int32, tag = "1")]
    pub action: i32,
    /// The name of the upload.
    #[prost(string, tag = "2")]
    pub reference: String,
    /// The length of all content in bytes.
    #[prost(int64, tag = "3")]
    pub total: i64,
    /// The digest that the content must have.
    #[prost(string, tag = "4")]
    pub expected: String,
    /// The offset of `data`, in bytes.
    #[prost(int64, tag = "5")]
    pub offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub data: Bytes,
    #[prost(map = "string, string", tag = "7")]
    pub labels: HashMap<String, String>,
}

/// `services/content/v1/content.proto`, `WriteContentResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct WriteContentResponse {
    /// Bytes that the upload has.
    #[prost(int64, tag = "4")]
    pub offset: i64,
}

/// `services/content/v1/content.proto`, `AbortRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct AbortRequest {
    #[prost(string, tag = "1")]
    pub reference: String,
}

/// `services/content/v1/content.proto`, `Info`, as an update has it.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct LabelledContent {
    #[prost(string, tag = "1")]
    pub digest: String,
    #[prost(map = "string, string", tag = "5")]
    pub labels: HashMap<String, String>,
}

/// `google.protobuf.FieldMask`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct FieldMask {
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

/// `services/content/v1/content.proto`, `UpdateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct UpdateContentRequest {
    #[prost(message, optional, tag = "1")]
    pub info: Option<LabelledContent>,
    #[prost(message, optional, tag = "2")]
    pub update_mask: Option<FieldMask>,
}

/// `services/images/v1/images.proto`, `Image`, with its labels.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct LabelledImage {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(map = "string, string", tag = "2")]
    pub labels: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub target: Option<Descriptor>,
}

/// `services/images/v1/images.proto`, `CreateImageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct CreateImageRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<LabelledImage>,
}

/// `services/images/v1/images.proto`, `UpdateImageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct UpdateImageRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<LabelledImage>,
    #[prost(message, optional, tag = "2")]
    pub update_mask: Option<FieldMask>,
}

/// `services/leases/v1/leases.proto`, `CreateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct CreateLeaseRequest {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(map = "string, string", tag = "3")]
    pub labels: HashMap<String, String>,
}

/// `services/leases/v1/leases.proto`, `DeleteRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::source) struct DeleteLeaseRequest {
    #[prost(string, tag = "1")]
    pub id: String,
}
