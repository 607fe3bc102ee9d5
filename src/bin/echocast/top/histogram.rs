//! A histogram of Prometheus: the difference and the sum of two, means and quantiles.

#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// By upper bound, of which the last is infinite.
    buckets: Vec<Bucket>,
    sum: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Upper bound, inclusive.
    bound: f64,
    /// Values up to the bound, so that it includes all smaller buckets.
    count: f64,
}

impl Histogram {
    /// Buckets are upper bounds with their counts.
    pub(super) fn new(buckets: Vec<(f64, f64)>, sum: f64) -> Self {
        let bucket = |(bound, count)| Bucket { bound, count };
        Self {
            buckets: buckets.into_iter().map(bucket).collect(),
            sum,
        }
    }

    /// Only the values since `before`.
    pub(super) fn since(mut self, before: &Self) -> Self {
        for (now, before) in self.buckets.iter_mut().zip(&before.buckets) {
            now.count -= before.count;
        }
        self.sum -= before.sum;
        self
    }

    /// Adds another one, which has the same bounds.
    pub(super) fn add(&mut self, other: &Self) {
        // An empty one has no bounds yet, and takes those of the other.
        if self.buckets.is_empty() {
            return self.clone_from(other);
        }
        for (sum, other) in self.buckets.iter_mut().zip(&other.buckets) {
            sum.count += other.count;
        }
        self.sum += other.sum;
    }

    fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.count)
    }

    pub(super) fn mean(&self) -> Option<f64> {
        (self.count() > 0.0).then(|| self.sum / self.count())
    }

    /// A quantile as Prometheus' `histogram_quantile` computes it: values are evenly spread in
    /// their bucket. Beyond the largest finite bound it is that bound.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count();
        let reaches = |bucket: &Bucket| bucket.count >= rank && bucket.count > 0.0;
        let index = self.buckets.iter().position(reaches)?;
        let below = self.below(index);
        Some(interpolate(rank, below, self.buckets[index]))
    }

    /// The bucket before this one; for the first one, an empty bucket at 0.
    fn below(&self, index: usize) -> Bucket {
        match index.checked_sub(1) {
            Some(before) => self.buckets[before],
            None => Bucket::default(),
        }
    }
}

fn interpolate(rank: f64, below: Bucket, bucket: Bucket) -> f64 {
    if bucket.bound.is_infinite() {
        return below.bound;
    }
    let width = bucket.bound - below.bound;
    below.bound + width * (rank - below.count) / (bucket.count - below.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_values_between_two_samples() {
        let before = Histogram::new(
            vec![(0.25, 50.0), (0.5, 100.0), (f64::INFINITY, 100.0)],
            9.0,
        );
        assert_eq!(before.quantile(0.75), Some(0.375));
        let now = Histogram::new(
            vec![(0.25, 50.0), (0.5, 110.0), (f64::INFINITY, 110.0)],
            12.75,
        );
        let since = now.clone().since(&before);
        assert_eq!(
            (since.quantile(0.5), since.mean()),
            (Some(0.375), Some(0.375))
        );
        assert_eq!(now.clone().since(&now).quantile(0.99), None);
        let mut beyond = Histogram::new(vec![(0.25, 0.0), (0.5, 0.0), (f64::INFINITY, 10.0)], 90.0);
        assert_eq!(beyond.quantile(0.99), Some(0.5));
        beyond.add(&since);
        assert_eq!(beyond.quantile(0.25), Some(0.375));
    }
}
