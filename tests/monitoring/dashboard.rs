//! The dashboard as data: its panels, and its queries as Grafana would send them.

use serde_json::Value;

/// Where it is.
pub const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/deploy/grafana/dashboards/echocast.json"
);

/// What Grafana puts in place of variables and of its own macros, with everything selected.
const VARIABLES: [(&str, &str); 5] = [
    ("$namespace", ".*"),
    ("$cluster", "echocast.*"),
    ("$node", ".*"),
    ("$__rate_interval", "10s"),
    ("$__range", "15m"),
];

pub fn read() -> Value {
    serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap()
}

/// All panels, rows included.
pub fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

/// What panels and variables ask, each with who asks.
pub fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let of_panels = panels(dashboard)
        .iter()
        .filter_map(|panel| Some((panel, panel["targets"].as_array()?)));
    let of_panels = of_panels.flat_map(|(panel, targets)| {
        targets.iter().map(|target| {
            (
                panel["title"].as_str().unwrap(),
                target["expr"].as_str().unwrap(),
            )
        })
    });
    let of_variables = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|variable| {
            let query = variable["query"]["query"].as_str()?;
            let (metric, _label) = query
                .strip_prefix("label_values(")
                .unwrap()
                .rsplit_once(", ")
                .unwrap();
            Some((variable["name"].as_str().unwrap(), metric))
        });
    of_panels
        .chain(of_variables)
        .map(|(title, query)| (title.to_owned(), filled_in(query)))
        .collect()
}

/// What annotations ask, which may find nothing.
pub fn annotations(dashboard: &Value) -> Vec<String> {
    let list = dashboard["annotations"]["list"].as_array().unwrap();
    list.iter()
        .map(|annotation| filled_in(annotation["target"]["expr"].as_str().unwrap()))
        .collect()
}

fn filled_in(query: &str) -> String {
    let filled = VARIABLES
        .iter()
        .fold(query.to_owned(), |query, (name, value)| {
            query.replace(name, value)
        });
    assert!(
        !filled.contains('$'),
        "a variable that nobody defines: {filled}"
    );
    filled
}
