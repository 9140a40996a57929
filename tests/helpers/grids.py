"""Results of a grid made up by hand, as `results.json` has them."""


def grid_entry(value, low, high, seeds=1):
    return {"value": value, "low": low, "high": high, "n": 400, "seeds": [value] * seeds}


def results_of(**changes):
    """Of Table 6, one seed, `rarl` not finished."""
    return {
        "table": "table6",
        "task": "digits",
        "split": "test",
        "model": "embedded base",
        "seeds": [0],
        "lists": {"8": {"n": 200, "tie_rate": 0.0}, "2": {"n": 200, "tie_rate": 0.0}},
        "steps": {"base": 0, "regression": 200, "rarl_no_mutation": 600, "rarl": 600},
        "arms": {
            "base": {
                "mae": grid_entry(1.3275, 1.1549, 1.5051),
                "accuracy": grid_entry(0.3875, 0.3374, 0.4325),
                "srcc": grid_entry(0.6869, 0.6041, 0.7614),
                "tau2": grid_entry(0.8, 0.4, 1.0),
                "tau8": grid_entry(0.1786, -0.0286, 0.3929),
                "parsed": grid_entry(1.0, 1.0, 1.0),
                "valid": grid_entry(0.9907, 0.98, 0.9977),
            },
            "regression": {"mae": grid_entry(1.0, 0.5, 1.5), "tau2": grid_entry(-0.25, -0.5, -0.125)},
        },
        "differences": {"base": {}, "regression": {}, "rarl_no_mutation": {}},
        "missing": ["seed 0 rarl_no_mutation", "seed 0 rarl"],
        **changes,
    }
