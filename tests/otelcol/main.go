// SPDX-License-Identifier: Apache-2.0

// An OpenTelemetry Collector that takes OTLP and appends what came to a file, a line of OTLP's JSON for each request.
package main

import (
	"context"
	"log"
	"os"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry"
)

type config struct {
	Path string `mapstructure:"path"`
}

type lines struct {
	component.StartFunc
	component.ShutdownFunc
	mutex sync.Mutex
	path  string
}

func (l *lines) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{}
}

func (l *lines) put(line []byte, err error) error {
	if err != nil {
		return err
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

func (l *lines) ConsumeLogs(_ context.Context, d plog.Logs) error {
	return l.put((&plog.JSONMarshaler{}).MarshalLogs(d))
}

func (l *lines) ConsumeMetrics(_ context.Context, d pmetric.Metrics) error {
	return l.put((&pmetric.JSONMarshaler{}).MarshalMetrics(d))
}

func (l *lines) ConsumeTraces(_ context.Context, d ptrace.Traces) error {
	return l.put((&ptrace.JSONMarshaler{}).MarshalTraces(d))
}

func made(c component.Config) *lines {
	return &lines{path: c.(*config).Path}
}

func exporterFactory() exporter.Factory {
	return exporter.NewFactory(component.MustNewType("lines"), func() component.Config { return &config{} },
		exporter.WithLogs(func(_ context.Context, _ exporter.Settings, c component.Config) (exporter.Logs, error) {
			return made(c), nil
		}, component.StabilityLevelStable),
		exporter.WithMetrics(func(_ context.Context, _ exporter.Settings, c component.Config) (exporter.Metrics, error) {
			return made(c), nil
		}, component.StabilityLevelStable),
		exporter.WithTraces(func(_ context.Context, _ exporter.Settings, c component.Config) (exporter.Traces, error) {
			return made(c), nil
		}, component.StabilityLevelStable))
}

func factories() (f otelcol.Factories, err error) {
	if f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory()); err != nil {
		return f, err
	}
	// About itself it says nothing.
	f.Telemetry = telemetry.NewFactory(func() component.Config { return &struct{}{} })
	f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](exporterFactory())
	return f, err
}

func main() {
	set := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Description: "Collector", Version: "module"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
			DefaultScheme:     "file",
		}},
	}
	if err := otelcol.NewCommand(set).Execute(); err != nil {
		log.Fatal(err)
	}
}
