//! Stores content and images in a containerd.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::uri::PathAndQuery;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::Client;
use super::client::Session;
use super::messages::{Descriptor as StoredDescriptor, Empty};
use super::write_messages::{
    AbortRequest, COMMIT, CreateImageRequest, CreateLeaseRequest, DeleteLeaseRequest, FieldMask, LabelledContent,
    LabelledImage, STAT, UpdateContentRequest, UpdateImageRequest, WRITE, WriteContentRequest, WriteContentResponse,
};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest};
use crate::source::ByteStream;

/// The most bytes of a message; containerd takes 16 MiB.
const PIECE: usize = 1 << 20;
/// How long content without an image is kept when this process dies.
const LEASE: Duration = Duration::from_secs(3600);

/// Stores images in one namespace of a containerd. Until [`ImageWriter::finish`], a lease keeps containerd from collecting content
/// that no image has yet.
pub struct ImageWriter {
    session: Session,
    lease: String,
}

/// What is written of one blob.
struct Upload<'a> {
    digest: &'a Digest,
    size: i64,
    name: String,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: BoxStream<'static, Result<WriteContentResponse, Status>>,
    idle: Duration,
}

impl ImageWriter {
    /// Connects, and takes a lease.
    ///
    /// # Errors
    /// A retryable fault that names the socket.
    pub async fn open(client: &Client) -> Result<Self, Fault> {
        let session = client.connect().await?;
        let lease = format!("jackal-import-{:016x}", fastrand::u64(..));
        let expiry = Timestamp::try_from(SystemTime::now() + LEASE).unwrap_or(Timestamp::MAX);
        // Fractions of seconds are not needed.
        let expiry = Timestamp::from_second(expiry.as_second()).unwrap_or(expiry);
        let request = CreateLeaseRequest {
            id: lease.clone(),
            labels: HashMap::from([("containerd.io/gc.expire".to_owned(), expiry.to_string())]),
        };
        let made: Result<Empty, Status> = session
            .call("/containerd.services.leases.v1.Leases/Create", request)
            .await;
        made.map_err(|status| session.status_fault(&status))?;
        let session = session.with_lease(&lease);
        Ok(Self { session, lease })
    }

    /// Stores the blob `blob` unless it is there, and sets `labels` of it. `content` gives it from an offset; an upload that broke off
    /// continues. Says how many bytes were sent. containerd verifies the digest.
    ///
    /// # Errors
    /// A fault that names the blob.
    pub async fn store(
        &self,
        blob: &Descriptor,
        labels: HashMap<String, String>,
        content: impl Fn(u64) -> ByteStream<'static>,
    ) -> Result<u64, Fault> {
        let within = |fault: Fault| fault.with_context(format_args!("blob {}", blob.digest));
        // Also for a blob that is there: containerd then adds it to the lease, so that it is not collected before an image has it.
        let sent = self.upload(blob, &labels, content).await.map_err(within)?;
        // It is there without the labels.
        if sent.is_none() {
            self.label(&blob.digest, labels).await.map_err(within)?;
        }
        Ok(sent.unwrap_or(0))
    }

    /// Uploads a blob; `None` where it is there already.
    async fn upload(
        &self,
        blob: &Descriptor,
        labels: &HashMap<String, String>,
        content: impl Fn(u64) -> ByteStream<'static>,
    ) -> Result<Option<u64>, Fault> {
        let size = i64::try_from(blob.size).map_err(|_| {
            Fault::stalled(
                Reason::SourceFailed,
                "it is longer than containerd can store".to_owned(),
            )
        })?;
        let (requests, receiver) = mpsc::channel(1);
        let name = format!("jackal-import-{}", blob.digest);
        let first = WriteContentRequest {
            action: STAT,
            reference: name.clone(),
            total: size,
            expected: blob.digest.to_string(),
            ..WriteContentRequest::default()
        };
        // The channel has room for one.
        let _ = requests.try_send(first);
        let idle = self.session.idle_timeout();
        let opening = self.session.write(ReceiverStream::new(receiver));
        let answers = match timeout(idle, opening).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(status)) if status.code() == Code::AlreadyExists => return Ok(None),
            Ok(Err(status)) => return Err(self.session.status_fault(&status)),
            Err(_) => return Err(self.session.idle_fault()),
        };
        let mut upload = Upload {
            digest: &blob.digest,
            size,
            name,
            requests,
            answers,
            idle,
        };
        match upload.run(labels, content).await {
            Ok(sent) => Ok(Some(sent)),
            Err(Failure::Content(fault)) => Err(fault),
            Err(Failure::Status(status)) if status.code() == Code::AlreadyExists => Ok(None),
            Err(Failure::Status(status)) => {
                if status.code() == Code::FailedPrecondition {
                    // What was sent has another digest: the next attempt begins anew.
                    let request = AbortRequest {
                        reference: upload.name.clone(),
                    };
                    let path = "/containerd.services.content.v1.Content/Abort";
                    let _: Result<Empty, Status> = self.session.call(path, request).await;
                }
                Err(self.session.status_fault(&status))
            }
            Err(Failure::Idle) => Err(self.session.idle_fault()),
        }
    }

    /// Adds labels to a blob.
    async fn label(&self, digest: &Digest, labels: HashMap<String, String>) -> Result<(), Fault> {
        if labels.is_empty() {
            return Ok(());
        }
        let request = UpdateContentRequest {
            update_mask: Some(FieldMask {
                paths: labels.keys().map(|label| format!("labels.{label}")).collect(),
            }),
            info: Some(LabelledContent {
                digest: digest.to_string(),
                labels,
            }),
        };
        let done: Result<Empty, Status> = self
            .session
            .call("/containerd.services.content.v1.Content/Update", request)
            .await;
        done.map(|_| ()).map_err(|status| self.session.status_fault(&status))
    }

    /// Gives the image `target`, whose content is stored, the name `name` and labels.
    ///
    /// # Errors
    /// A fault that names the image.
    pub async fn name(&self, name: &str, target: &Descriptor, labels: HashMap<String, String>) -> Result<(), Fault> {
        let fault = |status: &Status| {
            let fault = self.session.status_fault(status);
            fault.with_context(format_args!("image `{name}`"))
        };
        let mut paths = vec!["target".to_owned()];
        paths.extend(labels.keys().map(|label| format!("labels.{label}")));
        let image = LabelledImage {
            name: name.to_owned(),
            labels,
            target: Some(StoredDescriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.to_string(),
                size: i64::try_from(target.size).unwrap_or(i64::MAX),
            }),
        };
        let request = CreateImageRequest {
            image: Some(image.clone()),
        };
        let made: Result<Empty, Status> = self
            .session
            .call("/containerd.services.images.v1.Images/Create", request)
            .await;
        match made {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(fault(&status)),
        }
        let request = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask { paths }),
        };
        let done: Result<Empty, Status> = self
            .session
            .call("/containerd.services.images.v1.Images/Update", request)
            .await;
        done.map(|_| ()).map_err(|status| fault(&status))
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// A fault of the containerd.
    pub async fn finish(self) -> Result<(), Fault> {
        let request = DeleteLeaseRequest { id: self.lease };
        let done: Result<Empty, Status> = self
            .session
            .call("/containerd.services.leases.v1.Leases/Delete", request)
            .await;
        match done {
            Err(status) if status.code() != Code::NotFound => Err(self.session.status_fault(&status)),
            _ => Ok(()),
        }
    }
}

/// Why an upload failed.
enum Failure {
    /// The content cannot be read.
    Content(Fault),
    /// containerd refused it.
    Status(Status),
    /// containerd did not answer.
    Idle,
}

impl Upload<'_> {
    async fn run(
        &mut self,
        labels: &HashMap<String, String>,
        content: impl Fn(u64) -> ByteStream<'static>,
    ) -> Result<u64, Failure> {
        let begin = self.answer().await?;
        let mut offset = begin;
        let from = u64::try_from(begin).unwrap_or(0);
        let mut content = content(from);
        while let Some(mut chunk) = content.next().await.transpose().map_err(Failure::Content)? {
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(PIECE));
                let length = i64::try_from(piece.len()).unwrap_or(0);
                self.send(WRITE, offset, piece, HashMap::new()).await?;
                offset += length;
                if offset > self.size || self.answer().await? != offset {
                    return Err(Failure::Content(self.differs()));
                }
            }
        }
        if offset != self.size {
            return Err(Failure::Content(self.differs()));
        }
        self.send(COMMIT, offset, Bytes::new(), labels.clone()).await?;
        self.answer().await?;
        Ok(u64::try_from(offset - begin).unwrap_or(0))
    }

    async fn send(
        &self,
        action: i32,
        offset: i64,
        data: Bytes,
        labels: HashMap<String, String>,
    ) -> Result<(), Failure> {
        let request = WriteContentRequest {
            action,
            reference: self.name.clone(),
            total: self.size,
            expected: self.digest.to_string(),
            offset,
            data,
            labels,
        };
        match timeout(self.idle, self.requests.send(request)).await {
            // The answer says why it ended.
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::Idle),
        }
    }

    /// Bytes that the upload has, as the next answer says.
    async fn answer(&mut self) -> Result<i64, Failure> {
        match timeout(self.idle, self.answers.next()).await {
            Ok(Some(Ok(answer))) if (0..=self.size).contains(&answer.offset) => Ok(answer.offset),
            Ok(Some(Ok(_))) => Err(Failure::Content(self.differs())),
            Ok(Some(Err(status))) => Err(Failure::Status(status)),
            Ok(None) => Err(Failure::Status(Status::unavailable("it ended an upload"))),
            Err(_) => Err(Failure::Idle),
        }
    }

    fn differs(&self) -> Fault {
        Fault::retryable(
            Reason::DigestMismatch,
            format!("it does not have the {} bytes that its manifest says", self.size),
        )
    }
}

impl Session {
    async fn write(
        &self,
        requests: ReceiverStream<WriteContentRequest>,
    ) -> Result<BoxStream<'static, Result<WriteContentResponse, Status>>, Status> {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<WriteContentRequest, WriteContentResponse>::default();
        let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/Write");
        let answer = grpc.streaming(self.request(requests), path, codec).await?;
        Ok(answer.into_inner().boxed())
    }
}
