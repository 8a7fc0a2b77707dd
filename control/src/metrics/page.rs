//! All metrics at one instant, as text that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::families::{Family, Kind};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, which every reader knows.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => prometheus_text::CONTENT_TYPE,
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A number, or several.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Count(u64),
    /// A counter, or a gauge.
    Number(f64),
    One,
    Histogram {
        /// The upper bound of each range, and how often it was in it.
        ranges: Vec<(f64, u64)>,
        sum: f64,
    },
}

impl From<u64> for Value {
    fn from(count: u64) -> Value {
        Value::Count(count)
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Value {
        Value::Count(count as u64)
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Value {
        Value::Count(u64::from(is_so))
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Number(number)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Value,
}

/// All metrics that have something to tell, by name.
#[derive(Clone, Debug, Default)]
pub struct Page(BTreeMap<&'static str, (&'static Family, Vec<Sample>)>);

impl Page {
    /// Adds a number under `labels`, in the order that the family names them.
    pub(super) fn add<const N: usize>(
        &mut self,
        family: &'static Family,
        labels: [&str; N],
        value: impl Into<Value>,
    ) {
        debug_assert_eq!(family.labels.len(), N, "{}", family.base);
        let labels = labels.map(str::to_owned);
        let labels = family.labels.iter().copied().zip(labels).collect();
        let sample = Sample { labels, value: value.into() };
        let (_, samples) = self.0.entry(family.base).or_insert_with(|| (family, Vec::new()));
        samples.push(sample);
    }

    /// As text.
    pub fn text(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        let written = match format {
            Format::Prometheus => prometheus_text::encode(&mut page, &registry),
            Format::OpenMetrics => text::encode(&mut page, &registry),
        };
        // Writing to a string does not fail.
        debug_assert!(written.is_ok());
        page
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in self.0.values() {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut all = encoder.encode_descriptor(family.base, family.help, None, kind)?;
            for Sample { labels, value } in samples {
                // Labels of an info are its value.
                if *value == Value::One {
                    all.encode_info(&labels.as_slice())?;
                } else if labels.is_empty() {
                    write(family.kind, value, &mut all)?;
                } else {
                    write(family.kind, value, &mut all.encode_family(&labels.as_slice())?)?;
                }
            }
        }
        Ok(())
    }
}

type NoExemplar = Exemplar<[(&'static str, &'static str); 0], f64>;

fn write(kind: Kind, value: &Value, to: &mut MetricEncoder<'_>) -> fmt::Result {
    let is_counter = kind == Kind::Counter;
    match value {
        Value::Count(count) if is_counter => to.encode_counter(count, None::<&NoExemplar>),
        Value::Number(number) if is_counter => to.encode_counter(number, None::<&NoExemplar>),
        Value::Count(count) => to.encode_gauge(count),
        Value::Number(number) => to.encode_gauge(number),
        Value::One => Ok(()),
        Value::Histogram { ranges, sum } => {
            let count = ranges.iter().map(|(_, count)| count).sum();
            to.encode_histogram::<[(&str, &str); 0]>(*sum, count, ranges, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::families::{DRAINING, MODEL, PROCESS_CPU, STAGE, TENANT_SLOTS};

    fn page() -> Page {
        let mut page = Page::default();
        page.add(&DRAINING, [], true);
        page.add(&PROCESS_CPU, [], 0.5);
        page.add(&TENANT_SLOTS, ["a\"b\\c\nd"], 3_u64);
        page.add(&MODEL, ["m", "1", "onnx", "cpu", ""], Value::One);
        let ranges = vec![(1e-6, 1), (2.5e-6, 2), (f64::INFINITY, 3)];
        page.add(&STAGE, ["m", "1", "shm", "infer"], Value::Histogram { ranges, sum: 7.0 });
        page
    }

    #[test]
    fn both_formats_have_the_same_numbers() {
        let told = page().text(Format::Prometheus);
        for line in [
            "# TYPE ferry_draining gauge",
            "ferry_draining 1",
            "# TYPE process_cpu_seconds_total counter",
            "process_cpu_seconds_total 0.5",
            r#"ferry_tenant_slots{tenant="a\"b\\c\nd"} 3"#,
            "# TYPE ferry_model_info gauge",
            r#"ferry_model_info{model="m",version="1",engine="onnx",device="cpu",precision=""} 1"#,
            r#"ferry_stage_duration_seconds_bucket{model="m",version="1",transport="shm",stage="infer",le="2.5e-06"} 3"#,
            r#"ferry_stage_duration_seconds_bucket{model="m",version="1",transport="shm",stage="infer",le="+Inf"} 6"#,
            r#"ferry_stage_duration_seconds_count{model="m",version="1",transport="shm",stage="infer"} 6"#,
        ] {
            assert!(told.lines().any(|it| it == line), "{line} is not in\n{told}");
        }
        let open = page().text(Format::OpenMetrics);
        for line in [
            "# TYPE process_cpu_seconds counter",
            "process_cpu_seconds_total 0.5",
            r#"ferry_tenant_slots{tenant="a\"b\\c\nd"} 3"#,
            "# TYPE ferry_model info",
        ] {
            assert!(open.lines().any(|it| it == line), "{line} is not in\n{open}");
        }
        assert!(open.ends_with("# EOF\n"), "{open}");
    }
}
