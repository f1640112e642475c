"""Views for analysts, over the stream tables of `migrations.py`, which lists them: no table, nothing is inserted.

A sum of `Decimal(38, 18)` is one too in ClickHouse, and wraps silently from 1.7·10^20 on: what adds up over users is
added as Decimal256.
"""

#: Those of wallets are many: one line for all.
TRIAL_BALANCE = """
CREATE OR REPLACE VIEW {db}.trial_balance AS
SELECT asset, account, count() AS postings, sum(CAST(amount AS Decimal256(18))) AS total
FROM
(
    SELECT asset, if(startsWith(account, 'wallet:'), 'wallets', account) AS account, amount
    FROM {db}.ledger_entries
)
GROUP BY asset, account
"""

ALL = (TRIAL_BALANCE,)
