"""The paper's ablations in one table: train, look, score, write.

OUTPUT/ablation.json    every number of every look, with intervals
OUTPUT/ablation.md      the table, for a README
OUTPUT/ablation.png     curves and samples
"""

from pathlib import Path

from controlnet.ablations.bench import Bench
from controlnet.ablations.claims import claims_of
from controlnet.ablations.config import AblationConfig
from controlnet.ablations.figure import draw_figure
from controlnet.ablations.marks import Look, Marker, Score
from controlnet.ablations.quality import real_features
from controlnet.ablations.results import Row, Table, plain
from controlnet.ablations.runs import Tell, claim_table, costs_of, losses_of, make_all
from controlnet.ablations.variants import VARIANTS, Variant
from controlnet.ablations.words import markdown
from controlnet.trainer.judge import Judge
from controlnet.trainer.probe import snap_step
from schemas.files import held, machine_limits, write_json, write_text


def ablate(config: AblationConfig, judge: Judge, *, base: str, tell: Tell) -> Table | int:
    """Make the table, or go on with it.

    Args:
        config: of the table.
        judge: of adherence.
        base: folder of the nano base.
        tell: shows a line.

    Returns:
        The table; or the signal that stopped it, then the same command goes on.

    Raises:
        ConfigError: data, base or output are not what is needed.
    """
    folder = Path(config.output)
    bench = Bench(config, base)
    with machine_limits(folder), held(folder):
        claim_table(config)
        return _made(config, judge, bench, base=base, tell=tell)


def _made(
    config: AblationConfig, judge: Judge, bench: Bench, *, base: str, tell: Tell
) -> Table | int:
    stopped_by = make_all(config, bench, base=base, tell=tell)
    if stopped_by is not None:
        return stopped_by
    tell("scoring")
    table = _scored(config, bench, judge)
    folder = Path(config.output)
    draw_figure(table, bench, folder / "ablation.png")
    write_text(folder / "ablation.md", markdown(table))
    write_json(folder / "ablation.json", plain(table))
    return table


def _scored(config: AblationConfig, bench: Bench, judge: Judge) -> Table:
    size = bench.maps[0].shape[0], bench.maps[0].shape[1]
    marker = Marker(bench, judge, real_features(bench.base, config.data, size))
    of_real, of_base = marker.base(config)
    before, real = marker.score(of_base), marker.score(of_real)
    looks = {
        variant.name: {
            step: marker.look(config, variant.name, step, of_base) for step in config.looks
        }
        for variant in VARIANTS
    }
    return Table(
        config=config,
        judge=judge.name,
        rows=[
            _row(config, marker, one, list(looks[one.name].values()), before, real)
            for one in VARIANTS
        ],
        before=before,
        real=real,
        claims=claims_of(config, looks, marker.distance),
    )


def _row(
    config: AblationConfig,
    marker: Marker,
    variant: Variant,
    looks: list[Look],
    before: Score,
    real: Score,
) -> Row:
    costs = [costs_of(config, variant.name, seed) for seed in range(config.seeds)]
    prompted = {look.step: marker.score(look.prompted) for look in looks}
    return Row(
        name=variant.name,
        label=variant.label,
        parameters=costs[0]["parameters"],
        seconds=sum(one["seconds"] for one in costs),
        is_locked=variant.is_locked,
        prompted=prompted,
        empty={look.step: marker.score(look.empty) for look in looks},
        free={
            look.step: before if variant.is_locked else marker.score(look.free) for look in looks
        },
        losses=losses_of(config, variant.name, 0),
        snap=snap_step(
            list(prompted),
            [one.adherence.value for one in prompted.values()],
            floor=before.adherence.value,
            ceiling=real.adherence.value,
        ),
    )
