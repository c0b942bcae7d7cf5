# Plans and dispatches the stages of dvc.yaml: one rule for each stage family, made from dvc.yaml itself.
# A rule's input and output are stamps (.state/stamps); what makes a stamp invalid is DVC's judgement alone.
import logging
import signal
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from medunifier.runtime.errors import user_message
from medunifier.runtime.yaml import read_mapping
from workflow import changes, cluster_jobs, hooks, resources

min_version("9.17")  # of which on a priority may be a function

# On a full disk Snakemake's log file cannot be written: our message says so, not a traceback for each of its lines.
logging.raiseExceptions = False

try:
    STAGES = changes.make_plan() if workflow.is_main_process else changes.read_plan()
    if workflow.is_main_process:
        hooks.warn_of_absent_images(STAGES)
    PRIORITIES = changes.priorities(STAGES)
    # of all families: one may have no stage with these parameters
    NEEDS = resources.load_resources(read_mapping("dvc.yaml")["stages"])
except Exception as error:
    if message := user_message(error):
        raise WorkflowError(message) from None
    raise
except KeyboardInterrupt:
    raise WorkflowError("interrupted while the stages were planned; nothing has run") from None

if not workflow.is_main_process:
    # A job on a node: a cluster's early warning before the end (--signal=USR1) is for the stage alone.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


localrules:
    all,


rule all:
    input:
        [changes.stamp(name) for name in STAGES],


for family, has_items in changes.families(STAGES).items():
    stage = family + ("@{item}" if has_items else "")

    rule:
        name:
            family
        input:
            lambda wildcards, stage=stage: [
                changes.stamp(name) for name in STAGES[stage.format(**wildcards)].upstream
            ],
        output:
            touch(changes.stamp(stage)),
        log:
            f".state/logs/{stage}.log",
        benchmark:
            f".state/benchmarks/{stage}.tsv"
        # what much else waits for goes first, so that the end is not one long chain on one core
        priority: lambda wildcards, stage=stage: PRIORITIES[stage.format(**wildcards)]
        retries: NEEDS[family]["retries"] if config.get("cluster") else 0
        group:
            NEEDS[family]["group"] or None
        localrule: NEEDS[family]["local"]
        conda:
            "environment.yml"
        threads: NEEDS[family]["cpus"]
        resources:
            **resources.snakemake_resources(NEEDS[family]),
        params:
            stage=stage,
            python=sys.executable,
            message=lambda wildcards, stage=stage: STAGES[stage.format(**wildcards)].message,
            request=resources.describe(NEEDS[family]) if config.get("cluster") else "",
        message:
            "{params.message}{params.request}"
        shell:
            "{params.python:q} -m workflow.run --cpus {threads} --log {log:q} {params.stage:q}"


onstart:
    if workflow.is_main_process:
        try:
            hooks.before_run(workflow)
        except Exception as error:
            if message := user_message(error):
                raise WorkflowError(message) from None
            raise


onsuccess:
    if workflow.is_main_process:
        cluster_jobs.forget()
        hooks.after_run(STAGES)


onerror:
    if workflow.is_main_process:
        hooks.after_run(STAGES)
