//! The text format of Prometheus before OpenMetrics
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>), made from OpenMetrics' text. The
//! difference: comments have the full name of a counter's or an information's samples, and nothing ends the text.

/// The text of the older format.
pub(super) fn of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(of_family) = line.strip_prefix("# HELP ") {
            help = Some(of_family);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (end, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            // The help begins with the name, too.
            let words = help.take().and_then(|help| help.strip_prefix(name)).unwrap_or_default();
            text.extend(["# HELP ", name, end, words, "\n# TYPE ", name, end, " ", kind, "\n"]);
        } else if line != "# EOF" {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn counters_and_infos_are_commented_by_their_full_name() {
        let open_metrics = "# HELP a A.\n# TYPE a counter\na_total{b=\"# HELP\"} 1\n# HELP c C.\n# TYPE c info\nc_info 1\n\
                            # HELP d D.\n# TYPE d gauge\nd 1\n# EOF\n";
        let expected = "# HELP a_total A.\n# TYPE a_total counter\na_total{b=\"# HELP\"} 1\n\
                        # HELP c_info C.\n# TYPE c_info gauge\nc_info 1\n# HELP d D.\n# TYPE d gauge\nd 1\n";
        assert_eq!(super::of(open_metrics), expected);
    }
}
