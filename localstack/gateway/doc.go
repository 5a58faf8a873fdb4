// Package gateway stands in for AWS on one machine: it reads template.yaml, starts the real bootstrap binaries, each
// behind a Lambda Runtime API of its own, and serves the template's routes as API Gateway serves a REST API with
// Lambda proxy integration. It needs neither Docker nor an AWS account, and it builds nothing unless Build is called.
//
// It follows AWS where a function or a client can tell the difference:
//
//   - a process serves one invocation at a time; concurrent calls start more processes up to a bound and then wait in
//     a bounded queue; beyond it they are refused with 429;
//   - a process sees only the variables that the template declares, and those that Lambda itself sets;
//   - a function that fails, crashes or answers with something else than a proxy response is a 502, one that exceeds
//     its Timeout is a 504 and its process is killed; ended processes are replaced;
//   - a request body is at most 10 MB (413), a reply of a function at most 6 MB (502).
//
// It departs from AWS on purpose in these points:
//
//   - AWS answers an unknown path, and a known path with another method, with 403 "Missing Authentication Token". The
//     API's contract says 404 (not_found) and 405 (method_not_allowed, with Allow) as application/problem+json, and so
//     the gateway answers;
//   - a function that exceeds its own Timeout is a 504 here; on AWS it is a 502 unless API Gateway's own limit of 29 s
//     is reached first;
//   - API Gateway hands on header names in the client's case, the gateway in Go's canonical case; functions must not
//     depend on it;
//   - what is left out (authorizers, usage plans, schedules, CORS, conditions, …) is refused when the template is
//     read, never ignored.
package gateway
