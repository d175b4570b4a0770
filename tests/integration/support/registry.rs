//! Registries, one process for each test.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jackal_operator::registry::{Credentials, Endpoint, Registry, Repository};
use tempfile::TempDir;

use super::process::{Server, run};
use super::{install_tls, program};

/// The registry implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// distribution 2.8, from Debian.
    V28,
    /// distribution 3.1.
    V31,
    /// olareg, which implements the referrers API.
    Olareg,
}

impl Version {
    fn binary(self) -> PathBuf {
        match self {
            Self::V28 => program("JACKAL_BIN_REGISTRY28"),
            Self::V31 => program("JACKAL_BIN_REGISTRY31"),
            Self::Olareg => program("JACKAL_BIN_OLAREG"),
        }
    }

    /// The arguments that start it with `config.yml` in `folder`.
    fn arguments(self, folder: &Path, host: &str) -> Vec<String> {
        let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
        match self {
            Self::V28 | Self::V31 => vec!["serve".to_owned(), path("config.yml")],
            Self::Olareg => {
                let (address, port) = host.split_once(':').expect("an address and a port");
                let serve = ["serve", "--addr", address, "--port", port, "--api-delete", "--dir"];
                let mut arguments: Vec<String> = serve.map(str::to_owned).into();
                arguments.push(path("storage"));
                arguments
            }
        }
    }
}

/// A client for `host` over plain HTTP, with the changes of `change` to its endpoint.
pub fn plain_client(host: &str, change: impl FnOnce(&mut Endpoint)) -> Registry {
    install_tls();
    let mut endpoint = Endpoint {
        plain_http: true,
        ..Endpoint::new(host)
    };
    change(&mut endpoint);
    Registry::new(endpoint).expect("a client")
}

/// Every registry of the distribution project that we push to.
pub const VERSIONS: [Version; 2] = [Version::V28, Version::V31];

/// What the registry requires from clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A name and a password.
    pub login: Option<(&'static str, &'static str)>,
    /// HTTPS, with a certificate of an unknown authority.
    pub tls: bool,
}

/// A running registry with its storage.
pub struct TestRegistry {
    /// `127.0.0.1:port`.
    pub host: String,
    options: Options,
    folder: TempDir,
    version: Version,
    server: Mutex<Option<Server>>,
}

impl TestRegistry {
    /// A registry without authentication, over plain HTTP.
    pub fn start(version: Version) -> Self {
        Self::start_with(version, Options::default())
    }

    /// A registry.
    pub fn start_with(version: Version, options: Options) -> Self {
        Self::open(version, options, &[])
    }

    /// A registry without authentication that refuses to delete.
    pub fn start_keeping(version: Version) -> Self {
        let keeping = [("REGISTRY_STORAGE_DELETE_ENABLED", "false")];
        Self::open(version, Options::default(), &keeping)
    }

    /// A registry with TLS whose Location headers name `http://`.
    pub fn start_announcing_http() -> Self {
        let options = Options { login: None, tls: true };
        Self::open(
            Version::V31,
            options,
            &[("REGISTRY_HTTP_HOST", "http://127.0.0.1:PORT")],
        )
    }

    /// A registry with a self-signed certificate, as `openssl req -x509` creates it, with these extensions, such as
    /// `subjectAltName=IP:127.0.0.1`. That certificate is its `ca.crt`.
    pub fn start_self_signed(version: Version, extensions: &[&str]) -> Self {
        install_tls();
        let folder = tempfile::tempdir().expect("a folder");
        make_self_signed(folder.path(), extensions);
        let options = Options {
            tls: true,
            ..Options::default()
        };
        Self::open_in(folder, version, options, &[])
    }

    /// `PORT` in the value of a variable is replaced by the registry's port.
    fn open(version: Version, options: Options, variables: &[(&str, &str)]) -> Self {
        install_tls();
        let folder = tempfile::tempdir().expect("a folder");
        if options.tls {
            make_certificates(folder.path());
        }
        Self::open_in(folder, version, options, variables)
    }

    /// `folder` contains the certificates.
    fn open_in(folder: TempDir, version: Version, options: Options, variables: &[(&str, &str)]) -> Self {
        let binary = version.binary();
        if let Some((name, password)) = options.login {
            let line = run(program("JACKAL_BIN_HTPASSWD"), &["-nbB", "-C", "4", name, password]);
            std::fs::write(folder.path().join("htpasswd"), line).expect("the passwords");
        }
        // Another process may take the port meanwhile.
        for _ in 0..5 {
            let port = unused_port();
            let config = folder.path().join("config.yml");
            std::fs::write(&config, configuration(folder.path(), port, options)).expect("the configuration");
            let log = folder.path().join("log");
            let host = format!("127.0.0.1:{port}");
            let serve = version.arguments(folder.path(), &host);
            let serve: Vec<&str> = serve.iter().map(String::as_str).collect();
            let variables: Vec<(&str, String)> = [&[("OTEL_TRACES_EXPORTER", "none")], variables]
                .concat()
                .into_iter()
                .map(|(name, value)| (name, value.replace("PORT", &port.to_string())))
                .collect();
            let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut server = Server::start_with(&binary, &serve, &variables, &log);
            if listens(&mut server, version, &host, &log) {
                return Self {
                    host,
                    options,
                    folder,
                    version,
                    server: Mutex::new(Some(server)),
                };
            }
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("{} does not start: {log}", binary.display());
    }

    /// Kills it and starts it again, at the same address with the same storage.
    pub fn restart(&self) {
        *self.server() = None;
        self.start_again();
    }

    /// The endpoint with everything that it requires.
    pub fn endpoint(&self) -> Endpoint {
        let mut endpoint = Endpoint {
            plain_http: !self.options.tls,
            idle: Duration::from_secs(20),
            ..Endpoint::new(&self.host)
        };
        let login = self.options.login;
        endpoint.credentials = login.map(|(username, password)| Credentials::new(username, password));
        if self.options.tls {
            endpoint.trust.authorities = Some(std::fs::read(self.folder.path().join("ca.crt")).expect("the CA"));
        }
        endpoint
    }

    /// The certificate authority of its certificate, as PEM.
    pub fn authority(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("ca.crt")).expect("the CA")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.server().as_ref().expect("it was started").id()
    }

    /// Starts it again on its port with its storage, after it was killed.
    pub fn start_again(&self) {
        let log = self.folder.path().join("log");
        let arguments = self.version.arguments(self.folder.path(), &self.host);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut server = Server::start(&self.version.binary(), &arguments, &log);
        let read_log = || std::fs::read_to_string(&log).unwrap_or_default();
        let listens = listens(&mut server, self.version, &self.host, &log);
        assert!(listens, "it does not start again: {}", read_log());
        *self.server() = Some(server);
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().expect("nobody panics with it")
    }

    /// The folder of its storage.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }

    /// A client with everything that it requires.
    pub fn client(&self) -> Registry {
        Registry::new(self.endpoint()).expect("a client")
    }

    /// A repository by its path.
    pub fn repository(&self, name: &str) -> Repository {
        self.client().repository(name)
    }

    /// The number of uploads that were started and neither committed nor deleted. Of a deleted upload a registry keeps
    /// empty hash states.
    pub fn unfinished(&self, repository: &str) -> usize {
        self.uploads(repository).len()
    }

    /// The folders of these uploads.
    pub fn uploads(&self, repository: &str) -> Vec<PathBuf> {
        let folder = self.folder.path().join("storage/docker/registry/v2/repositories");
        let uploads = std::fs::read_dir(folder.join(repository).join("_uploads"));
        let exists = |upload: &PathBuf| ["data", "startedat"].iter().any(|name| upload.join(name).exists());
        uploads
            .into_iter()
            .flatten()
            .map(|upload| upload.expect("an upload").path())
            .filter(exists)
            .collect()
    }

    /// Pulls an image with crane, which verifies every digest, into a file.
    pub fn pull(&self, image: &str, file: &Path) {
        let (image, file) = (format!("{}/{image}", self.host), file.to_str().expect("text"));
        run(program("JACKAL_BIN_CRANE"), &["pull", "--insecure", &image, file]);
    }

    /// The output of a crane command for an image.
    pub fn crane(&self, command: &str, image: &str) -> String {
        let image = format!("{}/{image}", self.host);
        let crane = program("JACKAL_BIN_CRANE");
        match command {
            "validate" => run(crane, &[command, "--insecure", "--remote", &image]),
            _ => run(crane, &[command, "--insecure", &image]),
        }
    }
}

/// A port that nobody listens on now.
pub fn unused_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address").port()
}

fn listens(server: &mut Server, version: Version, host: &str, log: &Path) -> bool {
    let says_so = || std::fs::read_to_string(log).is_ok_and(|log| log.contains("listening on"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let listens = match version {
            Version::V28 | Version::V31 => says_so(),
            // It logs nothing. If its port is taken, it exits immediately.
            Version::Olareg => TcpStream::connect(host).is_ok() && !server.has_ended(),
        };
        if listens {
            return true;
        }
        if server.has_ended() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn configuration(folder: &Path, port: u16, options: Options) -> String {
    let folder = folder.display();
    let tls = match options.tls {
        true => format!("\n  tls:\n    certificate: {folder}/tls.crt\n    key: {folder}/tls.key"),
        false => String::new(),
    };
    let auth = match options.login {
        Some(_) => format!("auth:\n  htpasswd:\n    realm: test\n    path: {folder}/htpasswd\n"),
        None => String::new(),
    };
    format!(
        "version: 0.1
log:
  level: info
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {folder}/storage
  delete:
    enabled: true
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: 127.0.0.1:{port}
  secret: the same when it starts again{tls}
{auth}"
    )
}

/// `ca.crt`, and `tls.crt` with `tls.key` signed by it for 127.0.0.1.
pub fn make_certificates(folder: &Path) {
    let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    let openssl = |arguments: &[&str]| run(PathBuf::from("openssl"), arguments);
    std::fs::write(
        folder.join("leaf.ext"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
    )
    .expect("the extensions");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    openssl(&[&ca[..], &key, &["-keyout", &path("ca.key"), "-out", &path("ca.crt")]].concat());
    let leaf = ["req", "-subj", "/CN=registry"];
    openssl(
        &[
            &leaf[..],
            &key,
            &["-keyout", &path("tls.key"), "-out", &path("tls.csr")],
        ]
        .concat(),
    );
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        &path("tls.csr"),
        "-CA",
        &path("ca.crt"),
        "-CAkey",
        &path("ca.key"),
        "-CAcreateserial",
        "-extfile",
        &path("leaf.ext"),
        "-out",
        &path("tls.crt"),
    ]);
}

/// `tls.crt` with `tls.key` for 127.0.0.1, signed by that key, and the same as `ca.crt`.
fn make_self_signed(folder: &Path, extensions: &[&str]) {
    let path = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    let (certificate, key) = (path("tls.crt"), path("tls.key"));
    let mut arguments = vec!["req", "-x509", "-days", "2", "-subj", "/CN=127.0.0.1", "-nodes"];
    arguments.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    arguments.extend(["-keyout", &key, "-out", &certificate]);
    for extension in extensions {
        arguments.extend(["-addext", extension]);
    }
    run(PathBuf::from("openssl"), &arguments);
    std::fs::copy(&certificate, path("ca.crt")).expect("a copy");
}
