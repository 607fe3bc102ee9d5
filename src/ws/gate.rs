//! The gate: how many clients may be connected, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::{Metrics, Way};

/// Counts clients and refuses those that are too many.
#[derive(Debug)]
pub struct Gate {
    open: AtomicUsize,
    limit: usize,
    per_ip: Option<PerIp>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct PerIp {
    limit: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One client's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    /// Only if addresses are counted: there are many permits.
    ip: Option<Box<IpAddr>>,
    way: Way,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// `--max-connections`.
    #[error("too many connections to this node")]
    Node,
    /// `--max-connections-per-ip`.
    #[error("too many connections from your address")]
    Ip,
}

impl Gate {
    /// A gate with these limits; `None` is none.
    pub fn new(limit: Option<usize>, per_ip: Option<usize>, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.connections_limit.set(limit.unwrap_or(0).try_into().unwrap_or(i64::MAX));
        let per_ip = per_ip.map(|limit| PerIp { limit, open: Mutex::default() });
        Arc::new(Self { open: AtomicUsize::new(0), limit: limit.unwrap_or(usize::MAX), per_ip, metrics })
    }

    /// Lets a client in, or says which limit was reached.
    pub fn enter(self: &Arc<Self>, ip: IpAddr, way: Way) -> Result<Permit, Full> {
        if self.open.fetch_add(1, Relaxed) >= self.limit {
            self.open.fetch_sub(1, Relaxed);
            return Err(Full::Node);
        }
        if let Some(PerIp { limit, open }) = &self.per_ip {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = open.entry(ip).or_default();
            if *mine >= *limit {
                self.open.fetch_sub(1, Relaxed);
                return Err(Full::Ip);
            }
            *mine += 1;
        }
        self.metrics.of(way).connections.inc();
        let ip = self.per_ip.is_some().then(|| Box::new(ip));
        Ok(Permit { gate: self.clone(), ip, way })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.metrics.of(self.way).connections.dec();
        self.gate.open.fetch_sub(1, Relaxed);
        if let (Some(PerIp { open, .. }), Some(ip)) = (&self.gate.per_ip, &self.ip) {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(mine) = open.get_mut(ip) {
                *mine -= 1;
                if *mine == 0 {
                    open.remove(ip);
                }
            }
        }
    }
}
