//! New connections, one after the other, by clients within this process; the server's processor time is counted.

use std::{net::TcpStream, sync::Arc};

use anyhow::{Context as _, ensure};
use quinn::VarInt;
use rustls::{
    ClientConnection,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use usher_certs::{
    pin::{PinnedVerifier, sha256},
    tls,
};

use super::{
    stock,
    table::{Figures, Peer, Results, SELF},
    testbed::{Testbed, enter, small},
    viewer,
    web::Web,
};
use crate::cluster::usage::Meter;

pub(crate) fn run(testbed: &Testbed, rep: usize, results: &mut Results) -> anyhow::Result<()> {
    let count = testbed.sizes.handshakes;
    if let Some(nginx) = &testbed.nginx {
        enter(results, "handshakes", Peer { name: "nginx", suffix: "" }, rep, web(nginx, count));
    }
    let runtime = viewer::runtime()?;
    enter(results, "handshakes", Peer { name: "stock quinn", suffix: "" }, rep, runtime.block_on(bare(testbed)));
    results.enter("handshakes", SELF, rep, runtime.block_on(usher(testbed))?);
    Ok(())
}

fn figures(count: u64, meter: &Meter) -> anyhow::Result<Figures> {
    Ok(vec![("handshakes per CPU-s (more is better)", count as f64 / meter.seconds()?)])
}

/// TLS 1.3 over TCP, until the server's Finished is checked and the client's is sent.
fn web(server: &Web, count: u64) -> anyhow::Result<Figures> {
    let cert = CertificateDer::from_pem_file(&server.cert).context("read the certificate")?;
    let mut config = tls::media_client_config(PinnedVerifier::new(vec![sha256(&cert)])).context("prepare TLS")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let meter = Meter::start(&server.processes()?)?;
    for _ in 0..count {
        let mut socket = TcpStream::connect(server.address).context("dial")?;
        let mut tls = ClientConnection::new(Arc::clone(&config), ServerName::try_from("localhost")?)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).context("shake hands")?;
        }
        tls.send_close_notify();
        tls.complete_io(&mut socket).context("say goodbye")?;
        ensure!(tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3), "not TLS 1.3");
    }
    figures(count, &meter)
}

async fn bare(testbed: &Testbed) -> anyhow::Result<Figures> {
    let endpoint = viewer::endpoint()?;
    let meter = Meter::start(&[testbed.stock.process.id()])?;
    for _ in 0..testbed.sizes.handshakes {
        let connection = stock::dial(&endpoint, testbed.stock.address, &testbed.stock.cert).await?;
        connection.close(VarInt::from_u32(0), b"done");
    }
    endpoint.wait_idle().await;
    figures(testbed.sizes.handshakes, &meter)
}

async fn usher(testbed: &Testbed) -> anyhow::Result<Figures> {
    let endpoint = viewer::endpoint()?;
    let mut tickets = viewer::tickets(&testbed.cluster.address, &testbed.cluster.ca()).await?;
    let seat = viewer::seat(&mut tickets, &small(0)).await?;
    let meter = Meter::start(&[testbed.cluster.node_id()])?;
    for _ in 0..testbed.sizes.handshakes {
        let connection = viewer::dial(&endpoint, &seat).await?;
        connection.close(VarInt::from_u32(0), b"done");
    }
    endpoint.wait_idle().await;
    figures(testbed.sizes.handshakes, &meter)
}
