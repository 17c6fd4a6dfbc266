//! Takes the place of the crate `native-tls`: its names, and no TLS.
//!
//! `consulrs` speaks HTTP through `rustify`, which wants `reqwest` with its default features, and with them `native-tls` and
//! OpenSSL: over a quarter of the executable, minutes of each build from scratch, and C headers or perl. Nothing uses it: our
//! client of Consul is given rustls. Cargo has no way to take a default feature away from a dependency's dependency, so the
//! crate is replaced (`[patch.crates-io]`) by this one.
//!
//! A connector cannot be made: [`TlsConnectorBuilder::build`] is an error, and all types that only a connector leads to have no
//! value. So who asks for TLS of this kind is refused, and can never speak plain text instead. What is here is what `reqwest`,
//! `hyper-tls` and `tokio-native-tls` name, as documented for native-tls 0.2.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write};
use std::marker::PhantomData;

/// TLS of this kind is not to be had.
#[derive(Debug)]
pub struct Error(());

/// What this crate answers.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this executable was built without native-tls: use rustls")
    }
}

impl std::error::Error for Error {}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SSL 3.0
    Sslv3,
    /// TLS 1.0
    Tlsv10,
    /// TLS 1.1
    Tlsv11,
    /// TLS 1.2
    Tlsv12,
}

/// A certificate of somebody trusted. As whoever hands one in may use it with another kind of TLS, it is taken, and not read.
#[derive(Clone, Debug)]
pub struct Certificate(());

impl Certificate {
    /// Takes it.
    ///
    /// # Errors
    /// None.
    pub fn from_der(_der: &[u8]) -> Result<Certificate> {
        Ok(Certificate(()))
    }

    /// Takes it.
    ///
    /// # Errors
    /// None.
    pub fn from_pem(_pem: &[u8]) -> Result<Certificate> {
        Ok(Certificate(()))
    }

    /// It was not kept.
    ///
    /// # Errors
    /// Always.
    pub fn to_der(&self) -> Result<Vec<u8>> {
        Err(Error(()))
    }
}

/// A certificate and its key. Has no value.
#[derive(Clone, Debug)]
pub struct Identity(Infallible);

/// How a [`TlsConnector`] is to be.
#[derive(Debug)]
pub struct TlsConnectorBuilder(());

impl TlsConnectorBuilder {
    /// Says nothing: there will be no connector.
    pub fn identity(&mut self, identity: Identity) -> &mut Self {
        match identity.0 {}
    }

    /// Says nothing: there will be no connector.
    pub fn min_protocol_version(&mut self, _protocol: Option<Protocol>) -> &mut Self {
        self
    }

    /// Says nothing: there will be no connector.
    pub fn max_protocol_version(&mut self, _protocol: Option<Protocol>) -> &mut Self {
        self
    }

    /// Says nothing: there will be no connector.
    pub fn add_root_certificate(&mut self, _certificate: Certificate) -> &mut Self {
        self
    }

    /// Says nothing: there will be no connector.
    pub fn disable_built_in_roots(&mut self, _disable: bool) -> &mut Self {
        self
    }

    /// Says nothing: there will be no connector.
    pub fn danger_accept_invalid_certs(&mut self, _accept: bool) -> &mut Self {
        self
    }

    /// Says nothing: there will be no connector.
    pub fn use_sni(&mut self, _use: bool) -> &mut Self {
        self
    }

    /// There is none.
    ///
    /// # Errors
    /// Always.
    pub fn build(&self) -> Result<TlsConnector> {
        Err(Error(()))
    }
}

/// A client's side. Has no value.
#[derive(Clone, Debug)]
pub struct TlsConnector(Infallible);

impl TlsConnector {
    /// There is none.
    ///
    /// # Errors
    /// Always.
    pub fn new() -> Result<TlsConnector> {
        Err(Error(()))
    }

    /// One that can build none.
    pub fn builder() -> TlsConnectorBuilder {
        TlsConnectorBuilder(())
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn connect<S: Read + Write>(
        &self,
        _domain: &str,
        _stream: S,
    ) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

/// A server's side. Has no value.
#[derive(Clone, Debug)]
pub struct TlsAcceptor(Infallible);

impl TlsAcceptor {
    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn accept<S: Read + Write>(&self, _stream: S) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

/// A handshake that did not come to its end. Has no value but [`HandshakeError::Failure`].
#[derive(Debug)]
pub enum HandshakeError<S> {
    /// It failed.
    Failure(Error),
    /// It goes on later.
    WouldBlock(MidHandshakeTlsStream<S>),
}

/// A handshake that goes on later. Has no value.
#[derive(Debug)]
pub struct MidHandshakeTlsStream<S>(Infallible, PhantomData<S>);

impl<S> MidHandshakeTlsStream<S> {
    /// Cannot be called.
    pub fn get_ref(&self) -> &S {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn handshake(self) -> std::result::Result<TlsStream<S>, HandshakeError<S>> {
        match self.0 {}
    }
}

/// A connection. Has no value.
#[derive(Debug)]
pub struct TlsStream<S>(Infallible, PhantomData<S>);

impl<S> TlsStream<S> {
    /// Cannot be called.
    pub fn get_ref(&self) -> &S {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn get_mut(&mut self) -> &mut S {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn buffered_read_size(&self) -> Result<usize> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn peer_certificate(&self) -> Result<Option<Certificate>> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn shutdown(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}

impl<S> Read for TlsStream<S> {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl<S> Write for TlsStream<S> {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
