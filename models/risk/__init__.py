"""Looking ahead: stress tests, what breaks a limit, value at risk, simulations. Read-only; no part of the stream.

What is compared or shown as money of today (market values, losses under a given shock) is exact, in ints of units of
10^-18, with the contract's roundings. What is estimated (volatilities, value at risk, simulated losses) is float64, and
is called a statistic. `docs/risk.md` has the formulas and where they are from.
"""
