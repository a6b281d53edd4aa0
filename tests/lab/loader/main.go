// Says how Milvus reads the documents of a JSON list from standard input: by the libraries in the versions that it is
// built with, called as pkg/config/file_source.go calls them. Milvus 2.3 and 2.4 read by viper, 2.5 and later by
// yaml.v2 itself; all of them make text of values by cast.
//
//	go run . < ../../data/milvus_yaml.json
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"os"
	"strings"

	"github.com/spf13/cast"
	"github.com/spf13/viper"
	"gopkg.in/yaml.v2"
)

// Document is a milvus.yaml, and the text of each of its keys.
type Document struct {
	Text string `json:"text"`
	// As 2.3 and 2.4 read it; null when they do not start.
	Viper map[string]string `json:"viper"`
	// As 2.5 and 2.6 read it.
	YAML map[string]string `json:"yaml"`
}

func main() {
	var documents []Document
	if err := json.NewDecoder(os.Stdin).Decode(&documents); err != nil {
		log.Fatal(err)
	}
	for at := range documents {
		document := &documents[at]
		document.Viper = byViper(document.Text)
		document.YAML = byYAML(document.Text)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(documents); err != nil {
		log.Fatal(err)
	}
}

func format(key string) string {
	return strings.NewReplacer("/", "", "_", "", ".", "").Replace(strings.ToLower(key))
}

func byViper(text string) map[string]string {
	reader := viper.New()
	reader.SetConfigType("yaml")
	if err := reader.ReadConfig(bytes.NewReader([]byte(text))); err != nil {
		return nil
	}
	read := map[string]string{}
	for _, key := range reader.AllKeys() {
		value := reader.Get(key)
		text, err := cast.ToStringE(value)
		if err != nil {
			list, isList := value.([]interface{})
			if !isList {
				continue
			}
			text = ""
			for _, item := range list {
				// What is no text is logged, and an empty one.
				one, _ := cast.ToStringE(item)
				if text == "" {
					text = one
				} else {
					text += "," + one
				}
			}
		}
		read[format(key)] = text
	}
	return read
}

func byYAML(text string) map[string]string {
	var tree map[string]interface{}
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		return nil
	}
	read := map[string]string{}
	flatten("", tree, read)
	return read
}

func flatten(prefix string, tree map[string]interface{}, read map[string]string) {
	for key, value := range tree {
		if prefix != "" {
			key = prefix + "." + key
		}
		switch value := value.(type) {
		case map[string]interface{}:
			flatten(key, value, read)
		case map[interface{}]interface{}:
			flatten(key, cast.ToStringMap(value), read)
		case []interface{}:
			text := ""
			for at, item := range value {
				one, err := cast.ToStringE(item)
				if err != nil {
					continue
				}
				if at == 0 {
					text = one
				} else {
					text += "," + one
				}
			}
			read[format(key)] = text
		default:
			if one, err := cast.ToStringE(value); err == nil {
				read[format(key)] = one
			}
		}
	}
}
