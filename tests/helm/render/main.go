// Render a chart the way `helm template` does, for machines that have Go and Sprig but no Helm.
//
//	render [-f FILE]... [--set PATH=VALUE]... [--lookup FILE] RELEASE CHART
//
// It knows the objects .Values, .Release, .Chart and .Capabilities and the functions include, tpl, toYaml, toJson,
// required, fail and lookup. A --set path is a chain of names; lists go in a file. --lookup names a file of YAML
// documents that stand for what the cluster holds. NOTES.txt comes last, as a comment.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

type object = map[string]interface{}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	overrides, cluster, positional := []object{}, []object{}, []string{}
	for i := 0; i < len(arguments); i++ {
		flag := arguments[i]
		if flag != "-f" && flag != "--set" && flag != "--lookup" {
			positional = append(positional, flag)
			continue
		}
		i++
		if i == len(arguments) {
			return fmt.Errorf("%s: a value is missing", flag)
		}
		if flag == "--set" {
			override, err := assignment(arguments[i])
			if err != nil {
				return err
			}
			overrides = append(overrides, override)
			continue
		}
		documents, err := read(arguments[i])
		if err != nil {
			return err
		}
		if flag == "-f" {
			overrides = append(overrides, documents...)
		} else {
			cluster = append(cluster, documents...)
		}
	}
	if len(positional) != 2 {
		return errors.New("usage: render [-f FILE]... [--set PATH=VALUE]... [--lookup FILE] RELEASE CHART")
	}
	return render(positional[0], positional[1], overrides, cluster)
}

func render(release, chart string, overrides, cluster []object) error {
	metadata, err := read(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		return err
	}
	values, err := read(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	for _, override := range overrides {
		merge(values[0], override)
	}
	about := object{}
	for key, value := range metadata[0] {
		about[strings.ToUpper(key[:1])+key[1:]] = value
	}
	scope := object{
		"Values":       values[0],
		"Chart":        about,
		"Release":      object{"Name": release, "Namespace": "default", "Service": "Helm", "Revision": 1},
		"Capabilities": object{"KubeVersion": object{"Version": "v1.30.0", "Major": "1", "Minor": "30"}},
	}

	root := template.New("chart").Option("missingkey=zero")
	root.Funcs(functions(root, cluster))
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	if err != nil {
		return err
	}
	sort.Strings(paths)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := root.New(filepath.Base(path)).Parse(string(text)); err != nil {
			return err
		}
	}
	// printed at the end: like Helm, a chart renders as a whole or not at all
	var manifest strings.Builder
	for _, path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "_") || name == "NOTES.txt" {
			continue
		}
		text, err := execute(root, name, scope)
		if err != nil {
			return err
		}
		if strings.TrimSpace(text) != "" {
			fmt.Fprintf(&manifest, "---\n# Source: %s\n%s\n", name, text)
		}
	}
	notes, err := execute(root, "NOTES.txt", scope)
	if err != nil {
		return err
	}
	fmt.Print(manifest.String(), "---\n# ", strings.ReplaceAll(strings.TrimSpace(notes), "\n", "\n# "), "\n")
	return nil
}

func execute(root *template.Template, name string, scope interface{}) (string, error) {
	var out bytes.Buffer
	err := root.ExecuteTemplate(&out, name, scope)
	return strings.ReplaceAll(out.String(), "<no value>", ""), err
}

func functions(root *template.Template, cluster []object) template.FuncMap {
	all := sprig.TxtFuncMap()
	// Helm takes these away: a chart must not see the machine it is rendered on
	delete(all, "env")
	delete(all, "expandenv")
	all["include"] = func(name string, scope interface{}) (string, error) { return execute(root, name, scope) }
	all["tpl"] = func(text string, scope interface{}) (string, error) {
		clone, err := root.Clone()
		if err != nil {
			return "", err
		}
		if _, err := clone.New("tpl").Parse(text); err != nil {
			return "", err
		}
		return execute(clone, "tpl", scope)
	}
	all["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	all["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, errors.New(message)
		}
		return value, nil
	}
	all["fail"] = func(message string) (string, error) { return "", errors.New(message) }
	all["lookup"] = func(version, kind, namespace, name string) object {
		for _, document := range cluster {
			metadata, _ := document["metadata"].(object)
			if document["apiVersion"] == version && document["kind"] == kind && metadata["name"] == name {
				return document
			}
		}
		return object{}
	}
	return all
}

// read returns the documents of a YAML file with every number a float64, as Helm sees them.
func read(path string) ([]object, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	documents := []object{}
	for decoder := yaml.NewDecoder(file); ; {
		var document object
		if err := decoder.Decode(&document); err == io.EOF {
			return documents, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		text, err := json.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		var plain object
		if err := json.Unmarshal(text, &plain); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if plain != nil {
			documents = append(documents, plain)
		}
	}
}

func assignment(text string) (object, error) {
	path, raw, found := strings.Cut(text, "=")
	if !found {
		return nil, fmt.Errorf("--set %s: PATH=VALUE is needed", text)
	}
	var value interface{} = raw
	if raw != "" {
		if err := yaml.Unmarshal([]byte(raw), &value); err != nil {
			return nil, fmt.Errorf("--set %s: %w", text, err)
		}
	}
	names := strings.Split(path, ".")
	for i := len(names) - 1; i >= 0; i-- {
		value = object{names[i]: value}
	}
	return value.(object), nil
}

// merge lays b over a: tables are merged, null removes a key, everything else is replaced.
func merge(a, b object) {
	for key, value := range b {
		above, isTable := value.(object)
		below, wasTable := a[key].(object)
		switch {
		case value == nil:
			delete(a, key)
		case isTable && wasTable:
			merge(below, above)
		default:
			a[key] = value
		}
	}
}
