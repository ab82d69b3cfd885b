"""Serves `/api/jobs`, the one view on waiting, running and finished prompts that newer releases have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from comfy.simulator.execution.prompt_queue import Item, PromptQueue
from comfy.simulator.machine.machine import Machine
from comfy.simulator.routes.job_outputs import count_shown, named_files, summary
from comfy.simulator.routes.prompt_routes import is_canonical_uuid

_STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_SORT_KEYS = ("created_at", "execution_duration")


class BadQuery(ValueError):
    """A query parameter is wrong; the text is the reply."""


class JobRoutes:
    """The handlers; none of them exist in a release before 0.6.0."""

    def __init__(self, machine: Machine, prompts: PromptQueue) -> None:
        self._machine = machine
        self._release = machine.options.release
        self._prompts = prompts

    def routes(self) -> list[web.RouteDef]:
        routes = []
        if self._release.jobs_api:
            routes += [web.get("/api/jobs", self.listing), web.get("/api/jobs/{job_id}", self.detail)]
        if self._release.cancel_route:
            routes.append(web.post("/api/jobs/cancel", self.cancel_many))
            routes.append(web.post("/api/jobs/{job_id}/cancel", self.cancel))
        return routes

    async def listing(self, request: web.Request) -> web.Response:
        try:
            statuses = self._statuses(request.query.get("status"))
            sort_by = _choice(request.query, "sort_by", _SORT_KEYS)
            descending = _choice(request.query, "sort_order", ("desc", "asc")) == "desc"
            limit, offset = _number(request.query, "limit"), _number(request.query, "offset") or 0
        except BadQuery as exc:
            return web.json_response({"error": str(exc)}, status=400)
        if limit is not None and limit <= 0:
            return web.json_response({"error": "limit must be a positive integer"}, status=400)
        jobs = [job for job in self._all() if not statuses or job["status"] in statuses]
        workflow_id = request.query.get("workflow_id")
        if workflow_id is not None:
            jobs = [job for job in jobs if job.get("workflow_id") == workflow_id]
        jobs.sort(key=_duration_ms if sort_by == "execution_duration" else _created_ms, reverse=descending)
        offset = max(offset, 0)
        page = jobs[offset:] if limit is None else jobs[offset : offset + limit]
        more = offset + len(page) < len(jobs)
        pagination = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
        return web.json_response({"jobs": page, "pagination": pagination})

    async def detail(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        finished = self._prompts.history_of(job_id).get(job_id)
        if finished is not None:
            return web.json_response(self._finished_job(finished, with_outputs=True))
        running, pending = self._prompts.current()
        for items, status in ((running, "in_progress"), (pending, "pending")):
            for item in items:
                if item[1] == job_id:
                    workflow = {"workflow": _workflow(item)} if self._release.is_current else {}
                    return web.json_response({**self._queued_job(item, status), **workflow})
        return web.json_response({"error": "Job not found"}, status=404)

    async def cancel(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        return web.json_response({"cancelled": self._prompts.cancel(job_id, self._machine.interrupt.set)})

    async def cancel_many(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except json.JSONDecodeError:
            return web.json_response({"error": "Request body must be valid JSON"}, status=400)
        job_ids = body.get("job_ids") if isinstance(body, dict) else None
        if not isinstance(job_ids, list):
            return web.json_response({"error": "job_ids must be a list"}, status=400)
        invalid = [job_id for job_id in job_ids if not is_canonical_uuid(job_id)]
        if invalid:
            told = [job_id if isinstance(job_id, str) else repr(job_id) for job_id in invalid]
            body = {"error": "job_ids contains invalid id(s)", "invalid_ids": told}
            return web.json_response(body, status=400)
        hits = [self._prompts.cancel(job_id, self._machine.interrupt.set) for job_id in job_ids]
        return web.json_response({"cancelled": any(hits)})

    def _statuses(self, text: str | None) -> set[str]:
        if not text:
            return set()
        known = [status for status in _STATUSES if status != "cancelled" or self._release.cancelled_status]
        wanted = [status.strip().lower() for status in text.split(",")]
        unknown = [status for status in wanted if status and status not in known]
        if unknown:
            raise BadQuery(f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(known)}")
        return set(wanted)

    def _all(self) -> list[dict[str, Any]]:
        finished = [self._finished_job(entry) for entry in self._prompts.history().values()]
        return [*self._waiting(), *finished]

    def _waiting(self) -> list[dict[str, Any]]:
        running, pending = self._prompts.current()
        jobs = [self._queued_job(item, "in_progress") for item in running]
        return jobs + [self._queued_job(item, "pending") for item in sorted(pending, key=lambda item: item[:2])]

    def _queued_job(self, item: Item, status: str) -> dict[str, Any]:
        number, prompt_id, _, extra_data, _ = item
        pnginfo = extra_data.get("extra_pnginfo")
        workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
        return _pruned(
            {
                "id": prompt_id,
                "status": status,
                "priority": number,
                "create_time": extra_data.get("create_time"),
                "outputs_count": 0,
                "previewable_outputs_count": 0 if self._release.is_current else None,
                "workflow_id": workflow.get("id") if isinstance(workflow, dict) else None,
            }
        )

    def _finished_job(self, entry: Mapping[str, Any], *, with_outputs: bool = False) -> dict[str, Any]:
        messages: dict[str, Any] = dict(entry["status"]["messages"])
        ends = ("execution_success", "execution_error", "execution_interrupted")
        end: dict[str, Any] = next((messages[name] for name in ends if name in messages), {})
        outputs = named_files(entry["outputs"]) if self._release.is_current else entry["outputs"]
        count, preview = summary(outputs, shows_texts=self._release.is_current)
        job = {
            **self._queued_job(entry["prompt"], self._final_status(entry, messages)),
            "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
            "execution_end_time": end.get("timestamp"),
            "execution_error": messages.get("execution_error"),
            "outputs_count": count,
            "preview_output": preview,
        }
        if self._release.is_current:
            job["previewable_outputs_count"] = count_shown(outputs)
        if with_outputs:
            job["outputs"] = outputs
            job["execution_status"] = entry["status"]
            job["workflow"] = _workflow(entry["prompt"])
        return _pruned(job)

    def _final_status(self, entry: Mapping[str, Any], messages: Mapping[str, Any]) -> str:
        if entry["status"]["status_str"] == "success":
            return "completed"
        interrupted = "execution_interrupted" in messages
        return "cancelled" if interrupted and self._release.cancelled_status else "failed"


def _workflow(item: Item) -> dict[str, Any]:
    return {"prompt": item[2], "extra_data": item[3]}


def _pruned(job: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}


def _created_ms(job: Mapping[str, Any]) -> float:
    return float(job.get("create_time") or 0)


def _duration_ms(job: Mapping[str, Any]) -> float:
    return float(job.get("execution_end_time") or 0) - float(job.get("execution_start_time") or 0)


def _choice(query: Mapping[str, str], name: str, known: tuple[str, ...]) -> str:
    value = query.get(name, known[0]).lower()
    if value not in known:
        raise BadQuery(f"{name} must be {' or '.join(map(repr, sorted(known)))}")
    return value


def _number(query: Mapping[str, str], name: str) -> int | None:
    if name not in query:
        return None
    try:
        return int(query[name])
    except ValueError as exc:
        raise BadQuery(f"{name} must be an integer") from exc
