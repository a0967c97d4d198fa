"""A collector of OpenTelemetry: takes exports over HTTP, reads them with OpenTelemetry's own messages, and prints each item as a
line of JSON. What it cannot read it refuses, and prints why.

    collector.py PORT
"""

import gzip
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

LOCK = threading.Lock()


def say(item):
    with LOCK:
        print(json.dumps(item), flush=True)


def value(of):
    which = of.WhichOneof("value")
    return getattr(of, which) if which in ("string_value", "int_value", "double_value", "bool_value") else str(of)


def attributes(of):
    return {attribute.key: value(attribute.value) for attribute in of}


def spans(message):
    for of_resource in message.resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield {
                    "signal": "span",
                    "resource": attributes(of_resource.resource.attributes),
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.kind,
                    "nanoseconds": span.end_time_unix_nano - span.start_time_unix_nano,
                    "attributes": attributes(span.attributes),
                }


def points(metric):
    kind = metric.WhichOneof("data")
    for point in getattr(metric, kind).data_points:
        total = point.sum if kind == "histogram" else point.as_double
        count = point.count if kind == "histogram" else 1
        yield {
            "signal": "point",
            "kind": kind,
            "name": metric.name,
            "unit": metric.unit,
            "attributes": attributes(point.attributes),
            "value": total,
            "count": count,
        }


def metrics(message):
    for of_resource in message.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                yield from points(metric)


def logs(message):
    for of_resource in message.resource_logs:
        for of_scope in of_resource.scope_logs:
            for record in of_scope.log_records:
                yield {
                    "signal": "line",
                    "resource": attributes(of_resource.resource.attributes),
                    "trace": record.trace_id.hex(),
                    "severity": record.severity_text,
                    "body": value(record.body),
                    "attributes": attributes(record.attributes),
                }


READERS = {
    "/v1/traces": (ExportTraceServiceRequest, spans),
    "/v1/metrics": (ExportMetricsServiceRequest, metrics),
    "/v1/logs": (ExportLogsServiceRequest, logs),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.body()
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        say({"signal": "export", "path": self.path, "authorization": self.headers.get("authorization", "")})
        try:
            message, items = READERS[self.path]
            for item in list(items(message.FromString(body))):
                say(item)
            status = 200
        except (DecodeError, KeyError) as error:
            say({"signal": "unreadable", "path": self.path, "error": repr(error)})
            status = 400
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def body(self):
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        # Traefik does not say how long its spans are.
        body = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
