"""What cannot be asked of grpcio; the rest is in tests/conformance and tests/property."""

from __future__ import annotations

import pytest
from ipcd_client.rpc import service_config
from ipcd_client.rpc.service_config import InvalidConfig


def test_a_ratio_that_is_too_much_in_thousandths() -> None:
    """It is a float, and its thousandfold is none any more."""
    text = '{"retryThrottling": {"maxTokens": 1, "tokenRatio": 1e306}}'
    with pytest.raises(InvalidConfig, match=r"field:retryThrottling\.tokenRatio error:could not parse"):
        service_config.parse(text)
    assert "tokenRatio" in service_config.given(text, "ipcd:").methods[""].error
