//! The management HTTP interface of Milvus (port 9091): health, and the pause of garbage collection.
//!
//! Three generations of the pause exist (docs/milvus.md 2.2, [`super::version::GcGeneration`]), and the
//! answer tells them apart better than the version: 404 where there is none, a ticket where pauses have
//! one. Only tickets make it possible to end one's own pause; without them resuming would end the pauses of
//! other tools too, so those are left to run out.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::Deserialize;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep};
use url::Url;
use zeroize::Zeroizing;

use super::auth::Tls;
use crate::{Cause, Error, Result, Side};

/// The port of the management interface.
pub const DEFAULT_PORT: u16 = 9091;
/// How long a request other than a pause may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const PAUSE: &str = "management/datacoord/garbage_collection/pause";
const RESUME: &str = "management/datacoord/garbage_collection/resume";
const HEALTH: &str = "healthz";
/// Between two attempts of a pause that Milvus could not apply.
const RETRY: Duration = Duration::from_millis(500);

/// A client of Milvus's management interface; clones share its connections.
#[derive(Debug, Clone)]
pub struct Management {
    http: reqwest::Client,
    /// The address.
    base: Url,
    /// The same under the name that the server's certificate is for.
    named: Url,
    side: Side,
}

/// What a request for a pause led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GcSupport {
    /// This Milvus cannot pause garbage collection (before 2.3.9).
    Absent,
    /// It is paused.
    Paused(GcPause),
}

/// A pause of garbage collection. It ends by itself, and when `DataCoord` restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcPause {
    ticket: Option<String>,
    length: Duration,
}

impl GcPause {
    /// The ticket (2.6.8 and later), which ends this pause and no other.
    #[must_use]
    pub fn ticket(&self) -> Option<&str> {
        self.ticket.as_deref()
    }
}

/// How a pause ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcRelease {
    /// Its ticket was given back.
    Resumed,
    /// It has no ticket and runs out by itself.
    RunsOut,
}

/// The answer to a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Whether Milvus calls itself healthy.
    pub healthy: bool,
    /// What it says, when not.
    pub detail: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    ticket: Option<String>,
}

/// Resolves every name to the addresses of one host.
struct At(String);

impl Resolve for At {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.trim_matches(['[', ']']).to_owned();
        Box::pin(async move {
            let found: Vec<_> = lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl Management {
    /// Takes the address of a Milvus on `side`: `host`, `host:port`, or either with `http://` or
    /// `https://` before it.
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] when address or certificates are not usable. Nothing is connected yet.
    pub fn new(address: &str, tls: Option<&Tls>, side: Side) -> Result<Self> {
        let base = base_url(address)?;
        let (http, named) = http_client(&base, tls)?;
        Ok(Self {
            http,
            base,
            named,
            side,
        })
    }

    /// The address, as a URL.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.as_str()
    }

    /// Asks for the health of the process and its components.
    ///
    /// # Errors
    ///
    /// [`Cause::Unavailable`] when nothing answers.
    pub async fn health(&self) -> Result<HealthCheck> {
        let url = self.url(HEALTH, &[])?;
        let (status, body) = self.get(url, REQUEST_TIMEOUT).await?;
        let healthy = status.is_success();
        let detail = if healthy {
            String::new()
        } else {
            body.trim().to_owned()
        };
        Ok(HealthCheck { healthy, detail })
    }

    /// Pauses garbage collection for `length` (whole seconds, at least one), trying for `budget`.
    ///
    /// On 2.3.9 to 2.3.x the answer waits for a running pass, so the whole budget is one attempt's
    /// time-out there. From 2.4.0 on a running pass goes on; objects must be looked at again after the
    /// copy.
    ///
    /// # Errors
    ///
    /// [`Cause::Unavailable`] when it was not paused within the budget. Whether a pause whose answer was
    /// lost is in force is not known; it runs out by itself.
    pub async fn pause_gc(&self, length: Duration, budget: Duration) -> Result<GcSupport> {
        let end = Instant::now() + budget;
        let seconds = length.as_secs().max(1);
        let url = self.url(PAUSE, &[("pause_seconds", &seconds.to_string())])?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (status, body) = self.get(url.clone(), left).await.map_err(|error| {
                error.context("pause garbage collection").with_hint(
                    "a collection pass may be running; a pause of this milvus waits for it to end",
                )
            })?;
            if status.as_u16() == 404 {
                return Ok(GcSupport::Absent);
            }
            if status.is_success() {
                let answer = parse(&body);
                return Ok(GcSupport::Paused(GcPause {
                    ticket: answer.ticket.filter(|ticket| !ticket.is_empty()),
                    length: Duration::from_secs(seconds),
                }));
            }
            let error = refused("pause garbage collection", status, &body).on(self.side);
            if !status.is_server_error() || Instant::now() + RETRY >= end {
                return Err(error);
            }
            sleep(RETRY).await;
        }
    }

    /// Pauses again for `length` from now and gives the old pause's ticket back, as Milvus keeps at most
    /// 64 (2.6.13).
    ///
    /// # Errors
    ///
    /// As [`pause_gc`](Self::pause_gc); then `pause` is still what it was. [`Cause::Failed`] when the
    /// route has vanished, so that another Milvus answers now.
    pub async fn renew_gc(
        &self,
        pause: &GcPause,
        length: Duration,
        budget: Duration,
    ) -> Result<GcPause> {
        match self.pause_gc(length, budget).await? {
            GcSupport::Paused(renewed) => {
                // A ticket that was not taken back runs out by itself.
                let _ = self.release_gc(pause).await;
                Ok(renewed)
            }
            GcSupport::Absent => Err(self.side.error(
                Cause::Failed,
                format!(
                    "milvus at {} no longer knows the pause of garbage collection",
                    self.base
                ),
            )),
        }
    }

    /// Ends a pause where it has a ticket; others run out by themselves.
    ///
    /// # Errors
    ///
    /// [`Cause::Unavailable`] when Milvus does not answer or does not resume; the pause runs out then.
    pub async fn release_gc(&self, pause: &GcPause) -> Result<GcRelease> {
        let Some(ticket) = &pause.ticket else {
            return Ok(GcRelease::RunsOut);
        };
        let url = self.url(RESUME, &[("ticket", ticket)])?;
        let (status, body) = self.get(url, REQUEST_TIMEOUT).await?;
        // Where garbage collection is disabled a pause is answered OK and a resume is not.
        if status.is_success() || body.contains("not enabled") {
            return Ok(GcRelease::Resumed);
        }
        Err(refused("resume garbage collection", status, &body).on(self.side))
    }

    async fn get(&self, url: Url, timeout: Duration) -> Result<(reqwest::StatusCode, String)> {
        let failed = |error: reqwest::Error| {
            let what = if error.is_timeout() {
                "did not answer in time"
            } else {
                "cannot be reached"
            };
            Error::new(
                Cause::Unavailable,
                format!("the management interface of milvus at {} {what}", self.base),
            )
            .on(self.side)
            .with_source(error.without_url())
            .with_hint("is instance.milvus.management right? (metrics.port, or METRICS_PORT)")
        };
        let response = self
            .http
            .get(url)
            .timeout(timeout)
            .send()
            .await
            .map_err(failed)?;
        let status = response.status();
        Ok((status, response.text().await.map_err(failed)?))
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url> {
        let mut url = self.named.join(path).map_err(|error| {
            Error::new(
                Cause::Invalid,
                format!("the address {} is not usable", self.base),
            )
            .with_source(error)
        })?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

/// An HTTP client for the server at `base`, and the URL to use with it: under the name that the server's
/// certificate is for.
///
/// # Errors
///
/// [`Cause::Invalid`] when the certificates are not usable.
pub(crate) fn http_client(base: &Url, tls: Option<&Tls>) -> Result<(reqwest::Client, Url)> {
    let bad = |error: reqwest::Error| {
        Error::new(Cause::Invalid, "the TLS settings of milvus are not usable").with_source(error)
    };
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(REQUEST_TIMEOUT);
    let mut named = base.clone();
    if let Some(tls) = tls {
        if let Some(ca) = &tls.ca {
            for certificate in reqwest::Certificate::from_pem_bundle(ca).map_err(bad)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some((certificate, key)) = &tls.identity {
            let both = Zeroizing::new([&certificate[..], b"\n", &key[..]].concat());
            builder = builder.identity(reqwest::Identity::from_pem(&both).map_err(bad)?);
        }
        if let Some(name) = tls
            .server_name
            .as_ref()
            .filter(|_| base.scheme() == "https")
        {
            // The certificate is checked against the name in the URL, so that gets the name, and
            // the resolver of names leads to the address.
            if name.parse::<IpAddr>().is_ok() || named.set_host(Some(name)).is_err() {
                let message = format!("{name:?} is no name of a server");
                return Err(Error::new(Cause::Invalid, message)
                    .with_hint("check instance.milvus.tls.server_name"));
            }
            builder = builder.dns_resolver(At(base.host_str().unwrap_or_default().to_owned()));
        }
    }
    Ok((builder.build().map_err(bad)?, named))
}

fn parse(body: &str) -> Answer {
    serde_json::from_str(body).unwrap_or_else(|_| Answer {
        msg: body.trim().to_owned(),
        ticket: None,
    })
}

fn refused(doing: &str, status: reqwest::StatusCode, body: &str) -> Error {
    let cause = if status.is_server_error() {
        Cause::Unavailable
    } else {
        Cause::Failed
    };
    Error::new(
        cause,
        format!(
            "{doing}: milvus answers {}: {}",
            status.as_u16(),
            parse(body).msg
        ),
    )
}

fn base_url(address: &str) -> Result<Url> {
    let bad = || {
        Error::new(
            Cause::Invalid,
            format!("the management address {address:?} is not usable"),
        )
        .with_hint("write host:port, for example localhost:9091")
    };
    let address = address.trim();
    let with_scheme = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let mut url = Url::parse(&with_scheme).map_err(|error| bad().with_source(error))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(bad());
    }
    // A port that is the scheme's own is no port to the parser; whoever means it writes it.
    let given = with_scheme.trim_end_matches('/').ends_with(":80")
        || with_scheme.trim_end_matches('/').ends_with(":443");
    if url.port().is_none() && !given {
        url.set_port(Some(DEFAULT_PORT)).map_err(|()| bad())?;
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{GcRoute, Script, SimulatedMilvus};
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn addresses_are_read_in_every_form() {
        for (address, expected) in [
            ("localhost", "http://localhost:9091/"),
            ("localhost:42091", "http://localhost:42091/"),
            ("http://milvus:9091/", "http://milvus:9091/"),
            ("https://milvus:443", "https://milvus/"),
            ("http://proxy/milvus", "http://proxy:9091/milvus/"),
            ("[::1]:9091", "http://[::1]:9091/"),
        ] {
            assert_eq!(base_url(address).unwrap().as_str(), expected, "{address}");
        }
        for address in ["", "ftp://milvus", "http://"] {
            assert_eq!(
                base_url(address).unwrap_err().cause(),
                Cause::Invalid,
                "{address}"
            );
        }
    }

    #[tokio::test]
    async fn there_is_no_pause_simulated_milvus_2_3_5() {
        let milvus = SimulatedMilvus::start(Script::new("2.3.5")).await;
        assert_eq!(
            milvus.management().pause_gc(HOUR, LONG).await.unwrap(),
            GcSupport::Absent
        );
    }

    #[tokio::test]
    async fn a_pause_without_ticket_is_never_resumed_simulated_milvus_2_3_22_and_2_5_27() {
        for version in ["2.3.22", "2.5.27"] {
            let milvus = SimulatedMilvus::start(Script::new(version)).await;
            let management = milvus.management();
            let GcSupport::Paused(pause) = management.pause_gc(HOUR, LONG).await.unwrap() else {
                panic!("{version} pauses");
            };
            assert_eq!((pause.ticket(), pause.length), (None, HOUR));
            assert_eq!(
                management.release_gc(&pause).await.unwrap(),
                GcRelease::RunsOut
            );
            assert_eq!(milvus.gc_pauses(), 1, "the pause of others would end too");
        }
    }

    #[tokio::test]
    async fn renewing_gives_the_old_ticket_back_simulated_milvus_2_6_8() {
        let milvus = SimulatedMilvus::start(Script::new("2.6.8")).await;
        let management = milvus.management();
        let GcSupport::Paused(first) = management.pause_gc(HOUR, LONG).await.unwrap() else {
            panic!("2.6.8 pauses");
        };
        assert!(first.ticket().is_some());
        let second = management.renew_gc(&first, HOUR, LONG).await.unwrap();
        assert_ne!(first.ticket(), second.ticket());
        assert_eq!(milvus.gc_pauses(), 1);
        assert_eq!(
            management.release_gc(&second).await.unwrap(),
            GcRelease::Resumed
        );
        assert_eq!(milvus.gc_pauses(), 0);
    }

    #[tokio::test]
    async fn a_pause_that_could_not_be_applied_is_tried_again_simulated_milvus_2_3_22() {
        let mut script = Script::new("2.3.22");
        script.gc_failures = 1;
        let milvus = SimulatedMilvus::start(script).await;
        let outcome = milvus.management().pause_gc(HOUR, LONG).await.unwrap();
        assert!(matches!(outcome, GcSupport::Paused(_)));
        assert_eq!(milvus.gc_pauses(), 1);
    }

    #[tokio::test]
    async fn a_pause_that_outlasts_its_budget_is_an_error_simulated_milvus_2_3_22() {
        let mut script = Script::new("2.3.22");
        script.gc = GcRoute::Hangs;
        let milvus = SimulatedMilvus::start(script).await;
        let error = milvus
            .management()
            .pause_gc(HOUR, Duration::from_millis(50))
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Unavailable);
        assert!(
            error.chain().contains("did not answer in time"),
            "{}",
            error.chain()
        );
        assert_eq!(milvus.gc_pauses(), 0);
    }

    #[tokio::test]
    async fn health_is_told_simulated_milvus_2_6_13() {
        let mut script = Script::new("2.6.13");
        let healthy = SimulatedMilvus::start(script.clone())
            .await
            .management()
            .health()
            .await
            .unwrap();
        assert!(healthy.healthy && healthy.detail.is_empty());
        script.healthy = false;
        let milvus = SimulatedMilvus::start(script).await;
        let health = milvus.management().health().await.unwrap();
        assert!(
            !health.healthy && health.detail.contains("not healthy"),
            "{health:?}"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable_and_names_the_setting() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Management::new(&address, None, Side::Source)
            .unwrap()
            .health()
            .await
            .unwrap_err();
        assert_eq!(error.cause(), Cause::Unavailable);
        assert!(error.to_string().contains(&address));
        assert!(error.hint().unwrap().contains("instance.milvus.management"));
    }
}
