"""The admin API over HTTP: what an operator, a browser, a load balancer or Prometheus asks of one node."""
