package docker

import (
	"context"

	otel "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/valise-ota/valise/bundle/trace"
)

// calls makes a span of each call of the engine: the client tells it of them.
type calls struct{ noop.TracerProvider }

func (calls) Tracer(string, ...otel.TracerOption) otel.Tracer { return tracer{} }

type tracer struct{ noop.Tracer }

func (tracer) Start(ctx context.Context, name string, _ ...otel.SpanStartOption) (context.Context, otel.Span) {
	ctx, s := trace.Begin(ctx, trace.Engine, name)
	return ctx, call{s: s}
}

type call struct {
	noop.Span
	s *trace.Span
}

func (c call) End(...otel.SpanEndOption) { c.s.End(nil) }
