package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/bundle/push"
	"github.com/valise-ota/valise/bundle/web"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/verify"
)

func pushCommand(a *app) *cobra.Command {
	var trust cli.Trust
	var plainHTTP bool
	c := &cobra.Command{
		Use:   "push BUNDLE... oci://HOST/REPOSITORY",
		Short: "Push a signed release to a registry",
		Long: "push copies bundles to a repository of any OCI registry. The tag is the version, with _ for\n" +
			"+, and the platform if the bundles are for one platform each. It uploads only what the\n" +
			"registry lacks, so for a new release only the changed layers. A thin bundle is enough if the\n" +
			"registry has the rest. Pushing the same release again is \"done\"; another release with the\n" +
			"same version is an error.\n\n" +
			"Devices download from there with source: {oci: HOST/REPOSITORY}. push prints the references\n" +
			"of the images for docker pull.\n\n" +
			"push uses the login of docker login. It checks the bundles, and their signatures too if\n" +
			"flags say who must have signed. Devices verify signatures in any case.",
		Example: "  valise push dist/shop-1.2.3.tar.gz oci://ghcr.io/acme/shop\n" +
			"  valise push /media/usb/shop-1.2.3.tar.gz oci://registry.site.example:5000/shop --plain-http --key cosign.pub",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := a.registry(args[len(args)-1], plainHTTP)
			if err != nil {
				return err
			}
			var verifier *verify.Verifier
			if trust.Given() {
				policy, err := trust.Policy()
				if err != nil {
					return err
				}
				if verifier, err = verify.New(policy); err != nil {
					return err
				}
			}
			var list []pushed
			for _, path := range args[:len(args)-1] {
				r, f, err := parts.OpenBundle(path)
				if err != nil {
					return err
				}
				defer f.Close()
				update, finish := a.UI.Track("verify " + filepath.Base(path))
				if verifier != nil {
					_, err = verifier.Release(cmd.Context(), r, verify.Want{}, update)
				} else {
					err = r.Check(cmd.Context(), update)
				}
				finish(err)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				list = append(list, pushed{r, f.Name})
			}
			results, err := a.push(cmd.Context(), list, to)
			if err != nil {
				return err
			}
			return a.Result(results, func(w io.Writer) { printPushed(w, results) })
		},
	}
	trust.Register(c.Flags())
	c.Flags().BoolVar(&plainHTTP, "plain-http", false, "the registry has no TLS; no password is sent there")
	return c
}

// pushed is a bundle on its way into a registry. It was checked.
type pushed struct {
	push.Bundle
	file string
}

func printPushed(w io.Writer, results []*push.Result) {
	for _, r := range results {
		what := "pushed, " + ui.Bytes(r.Sent) + " sent"
		if r.Existed {
			what = "was there before"
		}
		fmt.Fprintf(w, "%s: %s\n", r.Reference, what)
		for _, i := range r.Images {
			fmt.Fprintf(w, "  %s %s\n    docker pull %s\n", i.Name, i.Platform, i.Reference)
		}
	}
}

// registry reads oci://HOST/REPOSITORY.
func (a *app) registry(text string, plainHTTP bool) (name.Repository, error) {
	rest, ok := strings.CutPrefix(text, "oci://")
	var options []name.Option
	if plainHTTP {
		options = append(options, name.Insecure)
	}
	to, err := name.NewRepository(rest, append(options, name.StrictValidation)...)
	switch {
	case !ok, err != nil && !strings.ContainsAny(strings.SplitN(rest, "/", 2)[0], ".:"):
		return to, cli.Usagef("%q is not a repository of a registry, want oci://HOST/REPOSITORY, such as oci://ghcr.io/acme/shop", text)
	case err != nil:
		return to, cli.WithHint(cli.Usagef("%w", err), "a repository is in lower case and has no tag: the tag is the version")
	}
	return to, nil
}

// registryOptions are those of requests to a registry.
func (a *app) registryOptions(to name.Repository) ([]remote.Option, error) {
	t := web.Transport()
	pool, err := roots(&project.Project{}, to.RegistryStr())
	if err != nil {
		return nil, fmt.Errorf("certificates for %s: %w", to.RegistryStr(), err)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return []remote.Option{
		remote.WithTransport(&web.Guard{Next: t, Limit: 8 << 20, Loopback: true}),
		remote.WithAuthFromKeychain(&logins{a: a, noted: map[string]bool{}}), remote.WithUserAgent("valise/" + cli.Version()),
	}, nil
}

// push copies bundles into a registry.
func (a *app) push(ctx context.Context, list []pushed, to name.Repository) ([]*push.Result, error) {
	options, err := a.registryOptions(to)
	if err != nil {
		return nil, err
	}
	var results []*push.Result
	for _, b := range list {
		m := b.Manifest()
		q := push.Request{Bundle: b, Repository: to, Options: options}
		if onePlatform(list, b) {
			q.Platform = m.Platforms[0]
		}
		update, finish := a.UI.Track("push " + filepath.Base(b.file))
		q.Progress = update
		result, err := push.Push(ctx, q)
		finish(err)
		if err != nil {
			return nil, pushHint(err, to)
		}
		results = append(results, result)
	}
	return results, nil
}

// onePlatform reports whether a bundle is for one platform, and others of its version for
// others: its name says so, or they are in the list.
func onePlatform(list []pushed, b pushed) bool {
	m := b.Manifest()
	if len(m.Platforms) != 1 {
		return false
	}
	for _, o := range list {
		if o.file != b.file && o.Manifest().Version == m.Version {
			return true
		}
	}
	return strings.HasSuffix(stem(b.file), "-"+m.Platforms[0].Dashed())
}

// pushHint says what to do.
func pushHint(err error, to name.Repository) error {
	var status *transport.Error
	var taken *push.TakenError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &taken) && taken.Image:
		return cli.WithHint(err, "releases need a repository without other images: push to oci://%s-releases", to)
	case errors.As(err, &taken):
		return cli.WithHint(err, "give the release a new version and build it again")
	case errors.As(err, new(*push.LackingError)):
		return cli.WithHint(err, "push the complete bundle, or the release before it first")
	case errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return cli.WithHint(err, "log in: docker login %s, with permission to write there", to.RegistryStr())
	case errors.As(err, &status) && status.StatusCode == http.StatusNotFound:
		return cli.WithHint(err, "some registries want a repository to be made first, such as Amazon ECR; in Harbor its project")
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return cli.WithHint(err, "when that registry has no TLS, say --plain-http")
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return cli.WithHint(err, "when its certificate is of your own authority, put that into %s/%s/ca.crt", certsDir, to.RegistryStr())
	}
	return err
}
