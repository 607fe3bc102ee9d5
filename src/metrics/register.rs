//! How metrics are declared: [`registered!`] makes a struct of them and registers each with the
//! name, help text and labels or buckets of its field.

use prometheus::{HistogramOpts, HistogramVec, Opts, Registry, Result};

use super::{Counter, Counters, Gauge, Gauges, Histogram};

/// Declares a struct of metrics, `field: Kind = "name", labels or buckets;` each, and of other
/// fields behind it. Its `register` takes a registry and the values of those other fields.
macro_rules! registered {
    (
        $(#[$about:meta])*
        $vis:vis struct $Struct:ident {
            $($(#[doc = $help:literal])+ $field:ident: $Kind:ty = $name:literal $(, $options:expr)?;)*
        }
        $($(#[$about_other:meta])* $other:ident: $Other:ty;)*
    ) => {
        $(#[$about])*
        #[derive(Debug)]
        $vis struct $Struct {
            $($(#[doc = $help])+ pub $field: $Kind,)*
            $($(#[$about_other])* pub $other: $Other,)*
        }

        impl $Struct {
            fn register(registry: &prometheus::Registry, $($other: $Other),*) -> prometheus::Result<Self> {
                use $crate::metrics::register::Metric;
                Ok(Self {
                    $($field: <$Kind as Metric>::register(registry, $name, concat!($($help),+).trim(), ($($options)?))?,)*
                    $($other,)*
                })
            }
        }
    };
}
pub(super) use registered;

/// Bounds of a histogram's buckets, from `first`, each twice the one before.
pub(super) fn doubling(first: f64, count: u32) -> Vec<f64> {
    (0..count)
        .map(|power| first * f64::from(1u32 << power))
        .collect()
}

/// A kind of metric.
pub(super) trait Metric: Sized {
    /// What there is to say beside its name and help: names of labels, bounds of buckets, or
    /// nothing.
    type Options;

    fn register(
        registry: &Registry,
        name: &str,
        help: &str,
        options: Self::Options,
    ) -> Result<Self>;
}

/// Names of labels.
type Labels = &'static [&'static str];

impl Metric for Counter {
    type Options = ();

    fn register(registry: &Registry, name: &str, help: &str, (): ()) -> Result<Self> {
        let made = Self::new(name, help)?;
        registry.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

impl Metric for Counters {
    type Options = Labels;

    fn register(registry: &Registry, name: &str, help: &str, labels: Labels) -> Result<Self> {
        let made = Self::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

impl Metric for Gauge {
    type Options = ();

    fn register(registry: &Registry, name: &str, help: &str, (): ()) -> Result<Self> {
        let made = Self::new(name, help)?;
        registry.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

impl Metric for Gauges {
    type Options = Labels;

    fn register(registry: &Registry, name: &str, help: &str, labels: Labels) -> Result<Self> {
        let made = Self::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

impl Metric for Histogram {
    type Options = Vec<f64>;

    fn register(registry: &Registry, name: &str, help: &str, buckets: Vec<f64>) -> Result<Self> {
        let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &[])?;
        registry.register(Box::new(made.clone()))?;
        Ok(made.with_label_values::<&str>(&[]))
    }
}
