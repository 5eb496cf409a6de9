"""How long Ray waits for its own processes: it gives up after seconds, which a machine with much to do takes."""

from __future__ import annotations

from tests.support.waiting import LIMIT_MS, LIMIT_SECONDS

SECONDS, MILLISECONDS = f"{LIMIT_SECONDS:.0f}", f"{LIMIT_MS:.0f}"
# Of every Ray that a test starts, in this process or in others.
PATIENT = {
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": SECONDS,
    "RAY_agent_register_timeout_ms": MILLISECONDS,
    "RAY_gcs_server_port_wait_time_s": SECONDS,
    "RAY_gcs_server_request_timeout_seconds": SECONDS,
    "RAY_worker_register_timeout_seconds": SECONDS,
    # A process that is gone refuses to be asked, and is noticed as soon as before.
    "RAY_health_check_timeout_ms": "60000",
}
