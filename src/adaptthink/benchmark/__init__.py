"""One fair table of methods: same model, problems, reference, grader and seeds."""
