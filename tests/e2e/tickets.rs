//! A client of its own making: the generated gRPC client, for requests that no command of `usher` makes.

use std::{fs, net::IpAddr};

use tokio::{runtime::Runtime, task::JoinSet};
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig},
};
use usher_proto::pb::v1::{self, resolve_request::What, tickets_client::TicketsClient};

use crate::cluster::Cluster;

/// An answer of the master.
pub(crate) type Answer = Result<v1::ResolveResponse, Status>;

/// One client, on one connection.
pub(crate) struct Tickets {
    runtime: Runtime,
    client: TicketsClient<Channel>,
}

/// A viewer's request.
pub(crate) fn play(title: &str) -> v1::ResolveRequest {
    v1::ResolveRequest {
        what: Some(What::Title(title.to_owned())),
        purpose: v1::Purpose::Play.into(),
        ..v1::ResolveRequest::default()
    }
}

impl Tickets {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self::connect(cluster, None)
    }

    /// A client at 127.0.0.`host`, which the master tells from the one at 127.0.0.1.
    pub(crate) fn at(cluster: &Cluster, host: u8) -> Self {
        Self::connect(cluster, Some([127, 0, 0, host].into()))
    }

    fn connect(cluster: &Cluster, source: Option<IpAddr>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let ca = Certificate::from_pem(fs::read(cluster.ca()).expect("the authority"));
        let tls = ClientTlsConfig::new().ca_certificate(ca);
        let channel = Channel::from_shared(format!("https://{}", cluster.address)).expect("an address");
        let channel = channel.tls_config(tls).expect("TLS").local_address(source);
        let channel = runtime.block_on(channel.connect()).expect("the master answers");
        Self { runtime, client: TicketsClient::new(channel) }
    }

    pub(crate) fn resolve(&self, request: v1::ResolveRequest) -> Answer {
        let answer = self.runtime.block_on(self.client.clone().resolve(request));
        answer.map(tonic::Response::into_inner)
    }

    /// So many calls at once.
    pub(crate) fn resolve_at_once(&self, request: &v1::ResolveRequest, calls: usize) -> Vec<Answer> {
        self.runtime.block_on(async {
            let mut asked = JoinSet::new();
            for _ in 0..calls {
                let (mut client, request) = (self.client.clone(), request.clone());
                asked.spawn(async move { client.resolve(request).await.map(tonic::Response::into_inner) });
            }
            asked.join_all().await
        })
    }
}
