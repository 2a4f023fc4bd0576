"""The benchmark's leaderboard: one static site, written from plain data, that needs no server and no network."""

from temper.benchmark.leaderboard.view import (
    Leaderboard,
    LeaderboardRun,
    Measured,
    Metric,
    Ranking,
    RankingRow,
)
from temper.benchmark.leaderboard.writing import write_leaderboard

__all__ = [
    "Leaderboard",
    "LeaderboardRun",
    "Measured",
    "Metric",
    "Ranking",
    "RankingRow",
    "write_leaderboard",
]
