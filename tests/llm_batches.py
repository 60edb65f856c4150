"""The test server's files and Batch API: states, output and error files, expiry, cancellation, as OpenAI has them."""

import asyncio
import itertools
import json
import random
import time

from aiohttp import web
from llm_faults import error

ENDED = ("completed", "failed", "expired", "cancelled")
PAGE = 20  # of a list, where `limit` does not say


class Batches:
    """State of files and batches, in memory: the server outlives its clients, not the other way round."""

    def __init__(self, options, teacher):
        self.options, self.teacher = options, teacher
        self.files = {}  # id -> {"bytes", "filename", "purpose", "created_at", "charges"}
        self.numbers = itertools.count()  # of files, deleted ones included
        self.batches = {}  # id -> the batch object
        self.tasks = set()

    def add_routes(self, router):
        router.add_post("/v1/files", self.upload)
        router.add_get("/v1/files", self.list_files)
        router.add_get("/v1/files/{id}", self.show_file)
        router.add_delete("/v1/files/{id}", self.delete_file)
        router.add_get("/v1/files/{id}/content", self.content)
        router.add_post("/v1/batches", self.create)
        router.add_get("/v1/batches", self.list_batches)
        router.add_get("/v1/batches/{id}", self.show)
        router.add_post("/v1/batches/{id}/cancel", self.cancel)

    # --- Files

    def _store(self, data, filename, purpose, charges=()):
        name = f"file-{next(self.numbers):024d}"
        self.files[name] = {
            "bytes": data, "filename": filename, "purpose": purpose, "created_at": int(time.time()), "charges": charges,
        }  # fmt: skip
        return name

    def _described(self, name):
        file = self.files[name]
        return {
            "id": name, "object": "file", "bytes": len(file["bytes"]), "created_at": file["created_at"],
            "filename": file["filename"], "purpose": file["purpose"], "status": "processed", "expires_at": None,
            "status_details": None,
        }  # fmt: skip

    async def upload(self, request):
        form = await request.post()
        self.teacher.ledger.reached("uploading")
        data = form["file"].file.read() if hasattr(form["file"], "file") else form["file"].encode()
        name = getattr(form["file"], "filename", "file")
        if len(data) > 200_000_000:
            return web.json_response(error("File is too large: at most 200 MB."), status=400)
        described = self._described(self._store(data, name, form["purpose"]))
        self.teacher.ledger.reached("uploaded")
        return web.json_response(described)

    async def list_files(self, request):
        return web.json_response(_page(request, [self._described(name) for name in reversed(self.files)]))

    async def show_file(self, request):
        name = request.match_info["id"]
        return web.json_response(self._described(name)) if name in self.files else _missing("file", name)

    async def delete_file(self, request):
        name = request.match_info["id"]
        if self.files.pop(name, None) is None:
            return _missing("file", name)
        return web.json_response({"id": name, "object": "file", "deleted": True})

    async def content(self, request):
        name = request.match_info["id"]
        if name not in self.files:
            return _missing("file", name)
        file = self.files[name]
        self.teacher.ledger.reached("reading")
        response = web.Response(body=file["bytes"], content_type="application/octet-stream")
        await response.prepare(request)
        await response.write_eof()
        for number in file["charges"]:
            self.teacher.ledger.sent(number)
        self.teacher.ledger.reached("read")
        return response

    # --- Batches

    async def create(self, request):
        body = await request.json()
        if body.get("endpoint") != "/v1/chat/completions" or body.get("completion_window") != "24h":
            return web.json_response(error("'endpoint' or 'completion_window' is not supported"), status=400)
        if body.get("input_file_id") not in self.files:
            return _missing("file", body.get("input_file_id"))
        number = len(self.batches)
        name = f"batch_{number:024d}"
        now = int(time.time())
        batch = self.batches[name] = {
            "id": name, "object": "batch", "endpoint": body["endpoint"], "errors": None, "model": None,
            "input_file_id": body["input_file_id"], "completion_window": "24h", "status": "validating",
            "output_file_id": None, "error_file_id": None, "created_at": now, "in_progress_at": None,
            "expires_at": now + 86400, "finalizing_at": None, "completed_at": None, "failed_at": None,
            "expired_at": None, "cancelling_at": None, "cancelled_at": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0}, "metadata": body.get("metadata"),
        }  # fmt: skip
        task = asyncio.ensure_future(self._work(batch, random.Random(f"{self.options.seed} batch {number}")))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self.teacher.ledger.reached("created")
        return web.json_response(batch)

    async def list_batches(self, request):
        return web.json_response(_page(request, list(reversed(self.batches.values()))))

    async def show(self, request):
        name = request.match_info["id"]
        if name not in self.batches:
            return _missing("batch", name)
        self.teacher.ledger.reached(self.batches[name]["status"])
        return web.json_response(self.batches[name])

    async def cancel(self, request):
        name = request.match_info["id"]
        if name not in self.batches:
            return _missing("batch", name)
        batch = self.batches[name]
        if batch["status"] in ENDED:
            said = f"Cannot cancel a batch with status '{batch['status']}'."
            return web.json_response(error(said, code="invalid_status"), status=409)
        _enter(batch, "cancelling")
        return web.json_response(batch)

    async def _work(self, batch, rng):
        """Takes a batch through its states; `cancel` and expiry end it early, with what is done so far."""
        options = self.options
        await asyncio.sleep(options.batch_seconds)
        if batch["status"] == "cancelling":
            return _enter(batch, "cancelled")
        lines, problem = self._validated(batch)
        if problem is None and rng.random() < options.batch_fail:
            problem = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for this organization."}
        if problem is not None:
            batch["errors"] = {"object": "list", "data": [{"line": None, "param": None, **problem}]}
            return _enter(batch, "failed")
        batch["request_counts"]["total"] = len(lines)
        _enter(batch, "in_progress")
        expires = rng.random() < options.batch_expire
        until = rng.randrange(len(lines)) if expires else len(lines)
        outputs, errors, charges = [], [], []
        for done, line in enumerate(lines[:until], 1):
            if batch["status"] == "cancelling":
                break
            self._do(line, batch, rng, outputs, errors, charges)
            if done % max(1, len(lines) // 10) == 0:
                await asyncio.sleep(options.batch_seconds / 10)
        if expires and batch["status"] == "in_progress":
            said = "This request could not be executed before the completion window expired."
            errors += [_line(line, None, {"code": "batch_expired", "message": said}) for line in lines[until:]]
        elif batch["status"] == "in_progress":
            _enter(batch, "finalizing")
            await asyncio.sleep(options.batch_seconds)
        last = {"cancelling": "cancelled", "in_progress": "expired", "finalizing": "completed"}[batch["status"]]
        outputs += [line for line in outputs if rng.random() < options.batch_duplicates]
        rng.shuffle(outputs)
        rng.shuffle(errors)
        for kind, found in (("output", outputs), ("error", errors)):
            if found:
                data = "".join(json.dumps(line) + "\n" for line in found).encode()
                file = self._store(
                    data, f"{batch['id']}_{kind}.jsonl", "batch_output", charges if kind == "output" else ()
                )
                batch[f"{kind}_file_id"] = file
        _enter(batch, last)

    def _validated(self, batch):
        """(lines, None), or ([], what is wrong with the input file)."""
        try:
            text = self.files[batch["input_file_id"]]["bytes"].decode()
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            names = [line["custom_id"] for line in lines]
            models = {line["body"]["model"] for line in lines}
            urls = {(line["method"], line["url"]) for line in lines}
        except (KeyError, TypeError, ValueError) as problem:
            return [], {
                "code": "invalid_json_line",
                "message": f"This line is not parseable as valid JSON: {problem!r}",
            }
        if not lines:
            return [], {"code": "empty_file", "message": "The input file is empty."}
        if len(lines) > 50_000:
            return [], {"code": "too_many_requests", "message": "A batch holds 50,000 requests at most."}
        if len(set(names)) < len(names):
            return [], {"code": "duplicate_custom_id", "message": "The custom_id of a line stands on another one too."}
        if len(models) > 1:
            return [], {"code": "mismatched_model", "message": "All requests of a batch must be for one model."}
        if urls != {("POST", batch["endpoint"])}:
            return [], {"code": "invalid_url", "message": "The URL of a line does not match the batch's endpoint."}
        return lines, None

    def _do(self, line, batch, rng, outputs, errors, charges):
        """One request of a batch: a line of its output or error file."""
        counts, body = batch["request_counts"], line["body"]
        status, said = 200, None
        if rng.random() < self.options.batch_errors:
            status, said = 500, error("The server had an error while processing your request.", "server_error")
        else:
            fault = ""
            if rng.random() < self.options.faults:
                known = [kind for kind in self.options.kinds if kind in _WITHIN]
                fault = rng.choice(known) if known else ""
            try:
                completion = self.teacher.complete(body, fault, rng)
            except ValueError as problem:
                status, said = 400, error(str(problem))
        if said is not None:
            counts["failed"] += 1
            errors.append(_line(line, {"status_code": status, "request_id": "req_1", "body": said}, None))
            return
        counts["completed"] += 1
        charges.append(
            self.teacher.charge(
                body, completion, via="batch", attempt=1, fault=fault, batch=batch["id"], custom_id=line["custom_id"]
            )
        )
        reply = self.teacher.reply(body, completion, usage=fault != "no_usage")
        outputs.append(_line(line, {"status_code": 200, "request_id": "req_1", "body": reply}, None))


_WITHIN = ("wrong_schema", "duplicate", "refusal", "content_filter", "length", "no_usage")  # faults of a batch's line


def _line(line, response, problem):
    return {"id": f"batch_req_{line['custom_id']}", "custom_id": line["custom_id"], "response": response,
            "error": problem}  # fmt: skip


def _enter(batch, status):
    batch["status"] = status
    batch[f"{status}_at"] = int(time.time())


def _page(request, items):
    """A page of a list, newest first, behind the item `after`."""
    after, limit = request.query.get("after"), int(request.query.get("limit", PAGE))
    start = next((i + 1 for i, item in enumerate(items) if item["id"] == after), 0)
    page = items[start : start + limit]
    return {
        "object": "list", "data": page, "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None, "has_more": start + limit < len(items),
    }  # fmt: skip


def _missing(what, name):
    return web.json_response(error(f"No such {what}: {name}", code="not_found"), status=404)
