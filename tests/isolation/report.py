"""What got through, as a table for people, as JSON for programs, and against the list of what may."""

import tomllib
from pathlib import Path

EXPECTED = Path(__file__).resolve().parent / "expected.toml"


def table(columns, attacks):
    """Families down, columns across: how many attacks got through, of how many."""
    families = sorted({attack.family for attack in attacks})
    width = max(len(name) for name in [*families, "all together"])
    lines = [" ".join([f"{'family':{width}} {'attacks':>8}", *(f"{name:>14}" for name in columns)])]
    for family in [*families, None]:
        own = [attack.id for attack in attacks if family in (None, attack.family)]
        through = [sum(any(r["kinds"]) for r in results if r["id"] in own) for results in columns.values()]
        lines.append(" ".join([f"{family or 'all together':{width}} {len(own):>8}", *(f"{count:>14}" for count in through)]))
    return "\n".join(lines)


def through(name, results, verbose=True):
    """Every attack that got through, why it may, and what each variant brought."""
    expected, lines = tomllib.loads(EXPECTED.read_text()), []
    may, why = expected.get(name, {}), expected.get("why", {})
    for result in results:
        if result["kinds"]:
            reason = why.get(may.get(result["id"], {}).get("why"), "") if "at_least" not in may else ""
            lines.append(f"{name}: {result['id']} ({', '.join(result['kinds'])}): {result['title']}{reason and ' -- ' + reason}")
            if verbose:
                for variant, what in result["variants"].items():
                    lines += [f"    {variant}: {kind}: {one}" for kind, found in what.items() for one in found[:3]]
    return "\n".join(lines)


def differences(name, results, is_whole=True):
    """Where a column differs from expected.toml, as sentences."""
    expected = tomllib.loads(EXPECTED.read_text()).get(name, {})
    found, wrong = {result["id"]: result["kinds"] for result in results}, []
    if "at_least" in expected:
        count = sum(map(bool, found.values()))
        return [f"{name}: {count} attacks get through, at least {expected['at_least']} must"] if is_whole and count < expected["at_least"] else []
    for attack, kinds in found.items():
        may = expected.get(attack, {}).get("kinds", [])
        if kinds != may:
            wrong.append(f"{name}: {attack} is {' and '.join(kinds) or 'harmless'}, expected {' and '.join(may) or 'harmless'}")
    if is_whole:
        wrong += [f"{name}: {attack} is expected, but there is no such attack" for attack in expected.keys() - found.keys()]
    return wrong
