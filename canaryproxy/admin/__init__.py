"""The admin addresses: API, event stream, dashboard, metrics and probes over HTTP."""
