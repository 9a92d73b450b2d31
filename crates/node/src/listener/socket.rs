//! Listening sockets: TCP ports, and files that are Unix domain sockets.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::Bind;
use crate::transport::Accepted;

/// The owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;

/// A listening socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// The file of a socket; removed with this value.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "socket not removed");
        }
    }
}

impl Socket {
    /// # Errors
    /// What the operating system said; `AddrInUse` also for a file that is not a socket.
    pub(super) async fn bind(bind: &Bind) -> io::Result<Self> {
        match bind {
            Bind::Ip(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Bind::Path(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path)?;
                let file = SocketFile(path.clone());
                fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
                Ok(Self::Unix {
                    listener,
                    _file: file,
                })
            }
        }
    }

    /// Where it listens, with the port that the system chose.
    pub(super) fn address(&self, bind: &Bind) -> Bind {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| bind.clone(), Bind::Ip),
            Self::Unix { .. } => bind.clone(),
        }
    }

    /// The next client and its address, if it has one. Cancel-safe.
    ///
    /// # Errors
    /// What the operating system said.
    pub(super) async fn accept(&self) -> io::Result<(Accepted, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Accepted::Tcp(stream), Some(address)))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream), None))
            }
        }
    }
}

/// Removes a socket that a killed node left behind: nobody listens there any more.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |why: &str| io::Error::new(io::ErrorKind::AddrInUse, why.to_owned());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            Err(taken("a file that is no socket is there"))
        }
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => Err(taken("another process listens there")),
        },
    }
}
